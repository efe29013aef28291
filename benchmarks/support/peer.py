"""(c) A plain grpc.aio server around the same pipeline, without batching: one worker process, and
one request in each forward. benchmarks/serve.py starts one for each core."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.support.bound import sample
from pipelines.errors import BadInput
from pipelines.pipeline import Pipeline
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server


class Plain(InferenceServicer):
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._worker = ThreadPoolExecutor(1)

    def _answer(self, request: pb.PredictRequest) -> pb.PredictResponse:
        response = pb.PredictResponse(request_id=request.request_id)
        for example in request.examples:
            (made,) = self._pipeline.predict([sample(0, example)])
            if isinstance(made, BadInput):
                response.results.add().fault.message = str(made)
                continue
            prediction = response.results.add().prediction
            prediction.label = made.label
            prediction.confidence = made.confidence
            for score in made.scores:
                prediction.scores.add(
                    label=score.label, probability=score.probability, log_prob=score.log_prob
                )
        return response

    async def Predict(
        self, request: pb.PredictRequest, context: grpc.aio.ServicerContext
    ) -> pb.PredictResponse:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._answer, request)

    async def PredictStream(
        self, requests: AsyncIterator[pb.PredictRequest], context: grpc.aio.ServicerContext
    ) -> None:
        lock = asyncio.Lock()

        async def one(request: pb.PredictRequest) -> None:
            response = await self.Predict(request, context)
            async with lock:
                await context.write(response)

        async with asyncio.TaskGroup() as group:
            async for request in requests:
                group.create_task(one(request))


async def serve(bundle: str, port: int) -> None:
    pipeline = Pipeline.load(bundle, threads=1, allow_dirty=True)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    add_InferenceServicer_to_server(Plain(pipeline), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.bundle, arguments.port))


if __name__ == "__main__":
    main()
