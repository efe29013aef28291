// One request to a Trefoil server from Go: parts in the order given, the answer as one JSON object.
//
//	go run . -server 127.0.0.1:8433 -text "knocking" -image station.jpg -audio hum.wav
//
// Stubs come from the contract; docs/clients.md has the command. Exit codes are those of
// `server predict`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "trefoil/v1"
)

const (
	failed        = 1
	usage         = 2
	refusedInput  = 3
	notReady      = 4
	stampMismatch = 5
)

// How each gRPC status ends the program; any other one is `failed`.
var exits = map[codes.Code]int{
	codes.InvalidArgument:    refusedInput,
	codes.FailedPrecondition: stampMismatch,
	codes.Unavailable:        notReady,
	codes.DeadlineExceeded:   notReady,
	codes.ResourceExhausted:  notReady,
	codes.Canceled:           notReady,
}

type answer struct {
	PredictionID string             `json:"prediction_id"`
	Label        string             `json:"label"`
	Confidence   float32            `json:"confidence"`
	Scores       map[string]float32 `json:"scores"`
	Stamp        string             `json:"stamp"`
	StampName    string             `json:"stamp_name"`
	PartsCut     uint32             `json:"parts_cut"`
}

func main() {
	var parts []*pb.Part
	server := flag.String("server", "127.0.0.1:8433", "HOST:PORT where it listens")
	deadline := flag.Duration("deadline", time.Minute, "give up after this")
	refuse := flag.Bool("refuse-cut", false, "refuse a row of which only a part can be used")
	flag.Func("text", "a text; repeatable", func(text string) error {
		parts = append(parts, &pb.Part{Modality: pb.Modality_TEXT, Source: &pb.Part_Text{Text: text}})
		return nil
	})
	flag.Func("image", "a picture; repeatable", file(&parts, pb.Modality_IMAGE))
	flag.Func("audio", "a sound; repeatable", file(&parts, pb.Modality_AUDIO))
	flag.Parse()
	if len(parts) == 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "give at least one of -text, -image and -audio, and nothing else")
		os.Exit(usage)
	}
	os.Exit(predict(*server, *deadline, *refuse, parts))
}

// A flag that reads a file into a part, named after the file in errors.
func file(parts *[]*pb.Part, modality pb.Modality) func(string) error {
	return func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		part := &pb.Part{Id: filepath.Base(path), Modality: modality, Source: &pb.Part_Data{Data: data}}
		*parts = append(*parts, part)
		return nil
	}
}

func predict(server string, deadline time.Duration, refuse bool, parts []*pb.Part) int {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	connection, err := grpc.Dial(server, grpc.WithInsecure())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return failed
	}
	defer connection.Close()
	request := &pb.PredictRequest{Examples: []*pb.Example{{Parts: parts}}}
	if refuse {
		request.OnTruncation = pb.OnTruncation_REFUSE
	}
	response, err := pb.NewInferenceClient(connection).Predict(ctx, request)
	if err != nil {
		found := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s answered %s: %s\n", server, found.Code(), found.Message())
		if code, known := exits[found.Code()]; known {
			return code
		}
		return failed
	}
	result := response.Results[0]
	prediction := result.GetPrediction()
	scores := map[string]float32{}
	for _, score := range prediction.Scores {
		scores[score.Label] = score.Probability
	}
	shown := answer{result.PredictionId, prediction.Label, prediction.Confidence, scores,
		result.Stamp, response.Stamp.Name, prediction.PartsCut}
	if err := json.NewEncoder(os.Stdout).Encode(shown); err != nil {
		return failed
	}
	return 0
}
