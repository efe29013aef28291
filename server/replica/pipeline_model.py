"""The pipeline as the model of a replica, with the conversion of messages in both directions.
Imports pipelines late, like main.py beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from google.protobuf.message import DecodeError

from proto import inference_pb2, replica_pb2
from server.replica import placement
from server.replica.bundle_values import values_of
from server.replica.fault_guard import Failed
from server.replica.model import Lane, Ready, Rejected
from server.replica.shortage import short_of_memory
from server.request.by_name import filled
from server.request.modalities import MODALITIES, NAMES
from server.telemetry.outputs import outputs_of

if TYPE_CHECKING:
    from pipelines.models.generation import Generation
    from pipelines.models.graphs import Capture
    from pipelines.pipeline import Pipeline
    from pipelines.postprocess import ForwardResult
    from pipelines.types import Modality, Part, PartUsed, Prediction, Prepared, Sample, Task
    from server.replica.decoding.parts import PartDecoders

# A larger example is heavy without a look inside, so that it is not parsed twice.
LIGHT_EXAMPLE_BYTES = 2 << 20
RECORDING_S = 10.0  # for all recordings of a replica together: a start waits no longer for them
ENCODINGS = {inference_pb2.PcmFormat.S16LE: "s16le", inference_pb2.PcmFormat.F32LE: "f32le"}
FINISH_REASONS = {"end": "stop", "length": "length"}


@dataclass(eq=False)
class PipelineModel:
    """Makes a pipeline a Model (server/replica/model.py). `shared_bytes` of the weights are another
    process's memory."""

    pipeline: Pipeline
    decoders: PartDecoders
    probe_runs: int
    shared_bytes: int = 0

    def __post_init__(self) -> None:
        self._most_text_bytes = 0
        self.set_aside(sys.maxsize)
        self._names = tuple(feature.name for feature in self.pipeline.features)
        self._stamp = self.pipeline.stamp.hex

    def enter_thread(self) -> None:
        from pipelines.models import device

        device.enter_thread(self.pipeline.backbone.device)

    def set_aside(self, text_bytes: int) -> None:
        """Limits the memory of texts. Call it while no text is being generated."""
        self._most_text_bytes = text_bytes
        self._writing = self.pipeline.writing(text_bytes)

    def record(self, capture: Capture, texts: int) -> str:
        """Records small batches, and steps of up to `texts` texts. Call it while no text is being
        generated. Returns what was recorded, and why the rest was not. Memory stays free for the
        largest warm batch and for the texts that no recording covers."""
        import torch

        from pipelines.models.graphs import GraphRecorder
        from pipelines.recording import record_batches, record_steps

        most = self._most_text_bytes
        recorder = GraphRecorder(capture, most + self._activation_bytes(), RECORDING_S)
        try:
            record_steps(self.pipeline, self._writing, recorder, texts, most)
            record_batches(self.pipeline, recorder)
        except torch.OutOfMemoryError:  # the buffers themselves did not fit
            self.set_aside(most)
            self.pipeline.backbone.recorded = None
            return "not recorded: memory ends"
        return str(recorder)

    def _activation_bytes(self) -> int:
        """The most memory that was in use besides the weights."""
        import torch

        device = self.pipeline.backbone.device
        if device.type != "cuda":
            return 0
        peak: int = torch.cuda.max_memory_allocated(device)
        return max(0, peak - self._own_bytes)

    @property
    def _own_bytes(self) -> int:
        """Bytes of the weights that this process allocated: its allocator does not count shared
        ones."""
        return max(0, self.pipeline.weight_bytes - self.shared_bytes)

    def warm(self, rows: int) -> None:
        """Runs every mix alone, a full mixed batch and a text, so that no caller's row is the
        first."""
        from pipelines.bundle import golden_file

        samples = [case.sample for case in golden_file.read(self.pipeline.bundle)[0]]
        for sample in samples:
            self.pipeline.predict([sample])
        # In one forward, which `predict` would split.
        self.pipeline.score([self.pipeline.prepare(s) for s in (samples * rows)[:rows]])
        text = replace(self._richest(), task="generate", max_new_tokens=2)
        for _ in self.pipeline.generate(text):
            pass

    @property
    def longest_warm(self) -> int:
        """Tokens of a row in `measure`."""
        return self.pipeline.prepare(self._richest()).tokens

    def measure(self, rows: int) -> float | None:
        """Seconds of a forward of `rows` rows with all modalities (the shorter of two runs); None
        if memory is exhausted."""
        import torch

        prepared = [self.pipeline.prepare(self._richest())] * rows
        took = []
        try:
            for _ in range(3):  # the first one allocates memory
                began = time.perf_counter()
                self.pipeline.forward(self.pipeline.collate(prepared)).wait()
                took.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        return min(took[1:])

    def memory(self) -> str:
        """A sentence on the memory of the weights, and on a GPU the most that has been in use."""
        import torch

        backbone = self.pipeline.backbone
        kind = str(backbone.dtype).removeprefix("torch.")
        size, own = backbone.weight_bytes / placement.MIB, self._own_bytes / placement.MIB
        weights = f"weights {size:,.0f} MiB in {kind}, {own:,.0f} of them this replica's own"
        if backbone.device.type != "cuda":
            return weights
        peak = torch.cuda.max_memory_allocated(backbone.device)
        used = f"{peak / placement.MIB:,.0f} MiB of its own"
        return f"{weights}; at most {used} with the largest warm batch"

    def _richest(self) -> Sample:
        from pipelines.bundle import golden_file

        samples = (case.sample for case in golden_file.read(self.pipeline.bundle)[0])
        return max(samples, key=lambda sample: len(sample.parts))

    def hello(self, device: str, reasons: dict[str, str]) -> replica_pb2.Hello:
        pipeline = self.pipeline
        hello = replica_pb2.Hello(
            stamp_hex=pipeline.stamp.hex,
            stamp_name=pipeline.stamp.name,
            dirty=pipeline.stamp.dirty,
            stamp_parts=dict(pipeline.stamp.parts),
            stamp_detail={**values_of(pipeline.bundle.path), **pipeline.stamp.detail},
            env=pipeline.env,
            reasons=reasons,
            labels=[label.name for label in pipeline.labels],
            embedding_dimensions=pipeline.backbone.width,
            card=pipeline.bundle.card,
            bundle_path=str(pipeline.bundle.path),
            signed_by=pipeline.bundle.signed_by,
            device=device,
            features=[filled(replica_pb2.FeatureSpec, one) for one in pipeline.features],
        )
        for name, value in limits_of(pipeline):
            hello.limits.add(name=name, value=value)
        return hello

    def lane(self, example: bytes) -> Lane:
        if len(example) > LIGHT_EXAMPLE_BYTES:
            return "heavy"
        try:
            return self.decoders.lane(sample_of(replica_pb2.Work(), example).parts)
        except Rejected:
            return "direct"  # it will be refused

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        from pipelines.errors import BadInput

        sample = sample_of(work, example)
        try:
            with self.decoders.row(sample.parts) as decode_part:
                row = self.pipeline.prepare(sample, decode_part)
        except BadInput as error:
            if short_of_memory(error):
                raise  # not a fault of the input: fault_guard answers
            raise Rejected(error.field, error.reason, error.message) from error
        return Ready(row, row.tokens, row.decode_ms, row.preprocess_ms, row.modalities)

    def forward(self, rows: Sequence[Prepared]) -> ForwardResult:
        return self.pipeline.forward(self.pipeline.collate(rows))

    def wait(self, found: ForwardResult) -> None:
        found.wait()

    def finish(self, found: ForwardResult) -> list[replica_pb2.Done]:
        return [self._done(prediction) for prediction in self.pipeline.finish(found)]

    def startable(self, rows: Sequence[Prepared]) -> int:
        count = len(rows)
        while count and not self._writing.takes(
            [row.tokens for row in rows[:count]], [row.max_new_tokens for row in rows[:count]]
        ):
            count -= 1
        return count

    def text_bytes(self) -> tuple[int, int]:
        return self._writing.cache_bytes, self._most_text_bytes

    def start(self, rows: Sequence[Prepared]) -> Sequence[Generation]:
        from pipelines.models.kv_cache import NoRoom

        try:
            return self.pipeline.start(self._writing, rows)
        except NoRoom as error:
            message = f"{error}; send a shorter prompt or a lower max_new_tokens"
            raise Failed(
                inference_pb2.Fault(
                    code="RESOURCE_EXHAUSTED", reason="TEXT_MEMORY", message=message
                )
            ) from error

    def step(self) -> None:
        self._writing.step()

    def end(self, row: Prepared, text: Generation) -> replica_pb2.Token:
        prediction = self.pipeline.written(row, text)
        return replica_pb2.Token(
            finish_reason=FINISH_REASONS.get(text.ending, text.ending),
            tokens=len(text.tokens),
            features=self._features(prediction),
            stamp_hex=self._stamp,
            prediction=inference_pb2.Prediction(**outputs_of(prediction)),
            parts_used=map(part_used_message, prediction.parts_used),
        )

    def probe(self, mixes: Sequence[str]) -> Iterator[replica_pb2.MixProbe]:
        from pipelines.bundle import golden, golden_file

        cases = golden_file.read(self.pipeline.bundle)[0]
        for mix in mixes or dict.fromkeys(case.mix for case in cases):
            (found,) = golden.probe(self.pipeline, (mix,), self.probe_runs)
            yield filled(replica_pb2.MixProbe, found)

    def broken_by(self, error: Exception) -> bool:
        """True after a CUDA error other than lack of memory: every later call fails or gives wrong
        results."""
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return False
        return "CUDA error" in str(error) or "cuDNN error" in str(error)

    def _done(self, prediction: Prediction) -> replica_pb2.Done:
        done = replica_pb2.Done(
            stamp_hex=self._stamp,
            features=self._features(prediction),
            parts_used=map(part_used_message, prediction.parts_used),
        )
        answer = done.prediction
        answer.MergeFrom(inference_pb2.Prediction(label=prediction.label, **outputs_of(prediction)))
        for score in prediction.scores:
            answer.scores.add(
                label=score.label, probability=score.probability, log_prob=score.log_prob
            )
        if prediction.embedding is not None:
            answer.embedding.values = prediction.embedding.astype("<f4").tobytes()
            answer.embedding.dimensions = len(prediction.embedding)
        return done

    def _features(self, prediction: Prediction) -> bytes:
        values = [prediction.features[name] for name in self._names]
        return np.array(values, dtype="<f4").tobytes()


def part_used_message(part: PartUsed) -> inference_pb2.PartUsed:
    return inference_pb2.PartUsed(**asdict(part) | {"modality": MODALITIES[part.modality]})


def limits_of(pipeline: Pipeline) -> Iterator[tuple[str, float]]:
    return ((name, float(value)) for name, value in asdict(pipeline.limits).items())


def sample_of(work: replica_pb2.Work, payload: bytes) -> Sample:
    """The sample of a row. Raises Rejected for bytes that are not an Example."""
    from pipelines.types import Sample

    example = inference_pb2.Example()
    try:
        example.ParseFromString(payload)
    except DecodeError as error:
        raise Rejected("", "BAD_MESSAGE", f"the example cannot be read: {error}") from error
    return Sample(
        id=work.id,
        parts=tuple(part_of(part) for part in example.parts),
        task=cast("Task", work.task),
        labels=tuple(work.labels),
        want_embedding=work.want_embedding,
        max_new_tokens=work.max_new_tokens,
        refuse_truncation=work.refuse_truncation,
    )


def part_of(part: inference_pb2.Part) -> Part:
    from pipelines.types import Part, PcmFormat

    pcm = None
    if part.HasField("pcm"):
        encoding = ENCODINGS.get(part.pcm.encoding, "")
        pcm = PcmFormat(part.pcm.sample_rate_hz, part.pcm.channels, encoding)
    if part.WhichOneof("source") == "text":
        return Part("text", part.text, part.mime_type, pcm, part.id)
    return Part(
        cast("Modality | None", NAMES.get(part.modality)), part.data, part.mime_type, pcm, part.id
    )
