"""CPU time of the front for one request: through gRPC and through each route of --http.

    python -m benchmarks.http [--bundle DIR] [--seconds 3] [--rounds 6]

One server answers all requests. The ports take turns within each round, so other work on this
machine affects all of them alike. Only the front process is counted, including its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import grpc
import psutil

from benchmarks.serve import ROOT, cpu_s, free_port, serving
from proto import inference_pb2 as pb

SAMPLES = ROOT / "pipelines" / "triage" / "samples"
CALLERS = 8
WORDS = "knocking since the last shift near the drive of station nine " * 3
BOUNDARY = "-" * 24 + "trefoil0benchmark"

Once = Callable[[], Awaitable[object]]


class HttpCaller:
    """One connection, kept open."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._writer: asyncio.StreamWriter | None = None

    async def once(self, request: bytes) -> bytes:
        """The body of the answer; ends the program if it is not a 200."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                self._host, int(self._port), limit=1 << 22
            )
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode() + (await self._reader.read(500)).decode())
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
        length = next(int(value) for name, _, value in lines if name == b"content-length")
        return await self._reader.readexactly(length)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def posted(path: str, body: bytes, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: a", *headers, f"content-length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def form(parts: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, content in parts:
        file = "" if name == "text" else f'; filename="{name}"'
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    return posted("/v1/predict", body, f"content-type: multipart/form-data; boundary={BOUNDARY}")


def tensors(parts: list[tuple[str, bytes]]) -> bytes:
    sizes = {name: len(content) + 4 for name, content in parts}
    inputs = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [1, 1],
            "parameters": {"binary_data_size": sizes[name]},
        }
        for name, _ in parts
    ]
    head = json.dumps({"inputs": inputs}).encode()
    raw = b"".join(len(content).to_bytes(4, "little") + content for _, content in parts)
    path = "/v2/models/trefoil/infer"
    return posted(path, head + raw, f"inference-header-content-length: {len(head)}")


def embeddings() -> bytes:
    body = {"model": "trefoil", "input": WORDS, "encoding_format": "base64"}
    return posted("/v1/embeddings", json.dumps(body).encode())


def tensor_message(parts: list[tuple[str, bytes]]) -> bytes:
    """The same tensors as a gRPC message."""
    from server.api import open_inference_messages as v2

    request = v2.ModelInferRequest(model_name="trefoil")
    for name, content in parts:
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(len(content).to_bytes(4, "little") + content)
    data: bytes = request.SerializeToString()
    return data


async def grpc_callers(target: str, method: str, data: bytes) -> list[Once]:
    """As many connections as the HTTP callers have."""
    callers: list[Once] = []
    for number in range(CALLERS):
        channel = grpc.aio.insecure_channel(target, options=[("grpc.channel_id", number)])
        await channel.channel_ready()
        callers.append(partial(channel.unary_unary(method), data))
    return callers


def http_callers(address: str, request: bytes) -> list[Once]:
    return [partial(HttpCaller(address).once, request) for _ in range(CALLERS)]


async def microseconds(front: psutil.Process, callers: list[Once], seconds: float) -> float:
    """CPU time of the front for one request, over `seconds` of all callers side by side."""
    count, end = 0, time.monotonic() + seconds

    async def one(once: Once) -> None:
        nonlocal count
        while time.monotonic() < end:
            await once()
            count += 1

    before = cpu_s(front)
    await asyncio.gather(*(one(once) for once in callers))
    return (cpu_s(front) - before) / count * 1e6


async def measured(
    target: str, address: str, front: psutil.Process, seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Payload -> port -> microseconds, medians over the rounds."""
    text = [("text", WORDS.encode())]
    three = [*text]
    three.append(("image", (SAMPLES / "station.jpg").read_bytes()))
    three.append(("audio", (SAMPLES / "machine.wav").read_bytes()))
    predict, infer = "/trefoil.v1.Inference/Predict", "/inference.GRPCInferenceService/ModelInfer"
    embed = pb.PredictRequest(
        examples=[pb.Example(parts=[pb.Part(text=WORDS)])], task=pb.EMBED
    ).SerializeToString()
    ports: dict[str, dict[str, list[Once]]] = {}
    for payload, parts in (("text", text), ("text, picture, sound", three)):
        example = pb.Example(
            parts=[
                pb.Part(text=content.decode()) if name == "text" else pb.Part(data=content)
                for name, content in parts
            ]
        )
        native = pb.PredictRequest(examples=[example]).SerializeToString()
        ports[payload] = {
            "Predict": await grpc_callers(target, predict, native),
            "/v1/predict": http_callers(address, form(parts)),
            "ModelInfer": await grpc_callers(target, infer, tensor_message(parts)),
            "/v2 infer": http_callers(address, tensors(parts)),
        }
    ports["text, embedding"] = {
        "Predict": await grpc_callers(target, predict, embed),
        "/v1/embeddings": http_callers(address, embeddings()),
    }
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for payload, by_port in ports.items():
            for port, callers in by_port.items():
                spent = await microseconds(front, callers, seconds if number else 1.0)
                if number:  # the first round warms up
                    found[payload, port].append(spent)
    medians: dict[str, dict[str, float]] = defaultdict(dict)
    for (payload, port), values in found.items():
        medians[payload][port] = statistics.median(values)
    return medians


def pairs(by_port: dict[str, float]) -> list[tuple[str, str]]:
    """(the gRPC port, the HTTP port) that do the same work."""
    grpc_ports = [port for port in by_port if not port.startswith("/")]
    http_ports = [port for port in by_port if port.startswith("/")]
    return list(zip(grpc_ports, http_ports, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=str(ROOT / "pipelines" / "triage" / "bundle"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    address = f"127.0.0.1:{free_port()}"
    with serving(arguments.bundle, 1, ["--http", address]) as ours:
        front = psutil.Process(ours.process.pid)
        medians = asyncio.run(
            measured(ours.target, address, front, arguments.seconds, arguments.rounds)
        )
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    print("| request | gRPC | µs | HTTP | µs | HTTP / gRPC |")
    print("|---|---|---|---|---|---|")
    for payload, by_port in medians.items():
        for ours_, theirs in pairs(by_port):
            spent, over_http = by_port[ours_], by_port[theirs]
            print(
                f"| {payload} | {ours_} | {spent:.0f} | {theirs} | {over_http:.0f} "
                f"| {over_http / spent:.2f} |"
            )


if __name__ == "__main__":
    main()
