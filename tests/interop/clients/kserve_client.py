"""kserve's gRPC and REST clients: python kserve_client.py ADDRESS URL"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import InferResponse


def request(binary: bool) -> InferRequest:
    note = InferInput("text", [1, 1], "BYTES")
    note.set_data_from_numpy(np.array([[b"knocking"]], dtype=object), binary_data=binary)
    return InferRequest(model_name="trefoil", infer_inputs=[note], request_id="mine")


def label(answer: InferResponse) -> str:
    (found,) = (output for output in answer.outputs if output.name == "label")
    value = found.as_numpy().reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


async def main() -> None:
    grpc_client = InferenceGRPCClient(sys.argv[1])
    assert await grpc_client.is_server_live()
    over_grpc = label(await grpc_client.infer(request(binary=True)))
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    url = sys.argv[2]
    assert await rest.is_server_live(url)
    found = [
        label(await rest.infer(url, request(binary), model_name="trefoil"))
        for binary in (True, False)
    ]
    assert found == [over_grpc] * 2, (over_grpc, found)
    print(f"{over_grpc!r} over gRPC and, binary and JSON, over REST")


asyncio.run(main())
