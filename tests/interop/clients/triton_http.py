"""tritonclient.http and its aio form: python triton_http.py ADDRESS PICTURE SOUND"""

import asyncio
import sys

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

picture, sound = (open(name, "rb").read() for name in sys.argv[2:4])


def tensor(name: str, value: bytes, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[value]], dtype=object), binary_data=binary)
    return made


client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.is_server_ready() == client.is_model_ready("trefoil")
client.get_server_metadata(), client.get_model_metadata("trefoil")
client.get_model_config("trefoil"), client.get_inference_statistics("trefoil")
inputs = [tensor("text", b"knocking"), tensor("image", picture), tensor("audio", sound)]
found = client.infer("trefoil", inputs, request_id="mine")
assert found.get_response()["id"] == "mine"
label = found.as_numpy("label")[0][0].decode()
plain = client.infer("trefoil", [tensor("text", b"knocking", binary=False)])
assert plain.as_numpy("scores").dtype == np.float32
later = client.async_infer("trefoil", [tensor("text", b"knocking")])
assert later.get_result().as_numpy("label").shape == (1, 1)
try:
    client.infer("trefoil", [tensor("image", b"not a picture")])
except triton.InferenceServerException as error:
    assert error.status() == "400", error
else:
    raise SystemExit("a broken picture was not refused")


async def main() -> str:
    async with triton_aio.InferenceServerClient(sys.argv[1]) as client:
        answer = await client.infer("trefoil", [tensor("text", b"knocking")])
        return str(answer.as_numpy("label")[0][0].decode())


print(f"{label!r}, binary and JSON tensors, aio {asyncio.run(main())!r}, a fault as 400")
