"""tritonclient.grpc.aio: python triton_grpc_aio.py ADDRESS PICTURE SOUND"""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as triton


def note(text: bytes) -> triton.InferInput:
    made = triton.InferInput("text", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[text]], dtype=object))
    return made


async def main() -> None:
    async with triton.InferenceServerClient(sys.argv[1]) as client:
        assert await client.is_server_live()
        calls = (client.infer("trefoil", [note(b"knock %d" % n)]) for n in range(8))
        labels = {one.as_numpy("label")[0][0].decode() for one in await asyncio.gather(*calls)}

        async def requests():  # type: ignore[no-untyped-def]
            for number in range(3):
                yield {
                    "model_name": "trefoil",
                    "inputs": [note(b"note")],
                    "request_id": str(number),
                }

        ids = [one.get_response().id async for one, error in client.stream_infer(requests())]
        assert ids == ["0", "1", "2"], ids
    print(f"8 calls side by side ({', '.join(sorted(labels))}), 3 over a stream")


asyncio.run(main())
