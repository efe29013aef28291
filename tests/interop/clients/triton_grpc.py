"""tritonclient.grpc, sync and over a stream: python triton_grpc.py ADDRESS PICTURE SOUND"""

import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
picture, sound = (open(name, "rb").read() for name in sys.argv[2:4])


def tensor(name: str, value: bytes) -> triton.InferInput:
    made = triton.InferInput(name, [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[value]], dtype=object))
    return made


assert client.is_server_live()
assert client.is_server_ready() == client.is_model_ready("trefoil")
config = client.get_model_config("trefoil", as_json=True)["config"]
inputs = [tensor("text", b"knocking"), tensor("image", picture), tensor("audio", sound)]
label = client.infer("trefoil", inputs).as_numpy("label")[0][0].decode()

answers: queue.Queue[Any] = queue.Queue()
client.start_stream(lambda result, error: answers.put(error or result))
for number in range(5):
    client.async_stream_infer("trefoil", [tensor("text", b"note")], request_id=str(number))
ids = [answers.get(timeout=60).get_response().id for _ in range(5)]
client.stop_stream()
assert ids == [str(number) for number in range(5)], ids
try:
    client.infer("trefoil", [tensor("image", b"not a picture")])
except triton.InferenceServerException as error:
    assert error.status() == "StatusCode.INVALID_ARGUMENT", error
else:
    raise SystemExit("a broken picture was not refused")
inferred = client.get_inference_statistics("trefoil").model_stats[0].inference_count
print(f"{label!r}; 5 answers of a stream in order; {inferred} rows counted; a fault by its code")
