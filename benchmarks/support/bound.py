"""(a) The bound: the pipeline called directly, without a server, with decoding overlapped with the
forward.

Several processes may run this. Each takes requests from its own endless supply, prepares them in
threads, and runs batches of a fixed size. Commands come as JSON lines, like load.py.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time

from benchmarks.support.payloads import pool
from pipelines.pipeline import Pipeline
from pipelines.types import Part, Sample
from proto import inference_pb2 as pb


def sample(index: int, example: pb.Example) -> Sample:
    parts = tuple(
        Part(kind="text", data=part.text)
        if part.HasField("text")
        else Part(kind=None, data=part.data, mime=part.mime_type)
        for part in example.parts
    )
    return Sample(id=str(index), parts=parts)


def throughput(
    pipeline: Pipeline, samples: list[Sample], batch: int, decoders: int, seconds: float
) -> dict[str, float]:
    """Rows per second with `decoders` preparing threads in front of one forward loop."""
    ready: queue.Queue[object] = queue.Queue(maxsize=2 * batch)
    stop = threading.Event()

    def prepare(offset: int) -> None:
        turn = offset
        while not stop.is_set():
            prepared = pipeline.prepare(samples[turn % len(samples)])
            turn += decoders
            while not stop.is_set():
                try:
                    ready.put(prepared, timeout=0.1)
                    break
                except queue.Full:
                    continue

    threads = [threading.Thread(target=prepare, args=(i,), daemon=True) for i in range(decoders)]
    for thread in threads:
        thread.start()
    rows = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        prepared = [ready.get() for _ in range(batch)]
        rows += len(pipeline.finish(pipeline.forward(pipeline.collate(prepared))))  # type: ignore[arg-type]
    took = time.perf_counter() - began
    stop.set()
    for thread in threads:
        thread.join()
    return {"rps": rows / took}


def latency(pipeline: Pipeline, samples: list[Sample], seconds: float) -> dict[str, float]:
    times = []
    began = time.perf_counter()
    turn = 0
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        pipeline.predict([samples[turn % len(samples)]])
        times.append(time.perf_counter() - start)
        turn += 1
    times.sort()
    return {
        "rps": len(times) / sum(times),
        "p50_ms": 1000 * times[len(times) // 2],
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "p99_ms": 1000 * times[int(0.99 * len(times))],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    pipeline = Pipeline.load(arguments.bundle, threads=arguments.threads, allow_dirty=True)
    samples = [sample(i, example) for i, example in enumerate(pool(48))]
    pipeline.predict(samples[:8])
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command.pop("latency", False):
            answer = latency(pipeline, samples, **command)
        else:
            answer = throughput(pipeline, samples, **command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
