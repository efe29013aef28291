"""Two weeks of a plant in a few minutes: `make demo`.

Starts the server on the embedded bundle with a fast telemetry clock, plays several clients from
three sites and two shifts through the real gRPC port, in bursts, with labels that come late. On day
9 the camera of site b darkens and its microphone gets noisy. Prints the alerts that opened, when
and why, and the worst slice by value; exits 1 if an alert opened before day 9, or none after.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import io
import multiprocessing
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from pipelines.triage import traffic
from proto import inference_pb2 as pb
from proto import observe_pb2 as ob
from proto.inference_pb2_grpc import InferenceStub
from proto.observe_pb2_grpc import ObserveStub

START = "2026-11-02T00:00+00:00"
START_S = 1793577600.0
DAY_S = 86_400.0
DAYS = 14
CHANGE_DAY = 9  # counted from 1: eight quiet days, then six with a fault
FAULTY_SITE = "b"
CLIENTS = {"a": ("press-1", "press-2"), "b": ("oven-1",), "c": ("saw-1", "saw-2")}
LABELLED_SHARE = 0.6
MEDIAN_DELAY_S = 6 * 3600.0
CHUNK = 250


@dataclass(frozen=True, slots=True)
class Item:
    """One request of the pool and the label that will turn out to be true."""

    example: bytes
    site: str
    shift: str
    label: str


def darken(jpeg: bytes) -> bytes:
    """What a dirty lens and a failing light do to a photo."""
    out = io.BytesIO()
    ImageEnhance.Brightness(Image.open(io.BytesIO(jpeg))).enhance(0.45).save(
        out, "JPEG", quality=80
    )
    return out.getvalue()


def add_noise(wav: bytes, rng: np.random.Generator) -> bytes:
    """What a loose microphone plug does to a sound."""
    with wave.open(io.BytesIO(wav)) as file:
        parameters = file.getparams()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    loud = float(np.sqrt(np.mean(samples**2))) + 200.0
    noisy = samples + rng.normal(0, 1.2 * loud, samples.shape)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams(parameters)
        file.writeframes(noisy.clip(-32768, 32767).astype("<i2").tobytes())
    return out.getvalue()


def draw(task: tuple[int, bool]) -> list[Item]:
    """A chunk of the pool; `faulty` ones are site b's alone, with its fault."""
    seed, faulty = task
    rng = np.random.default_rng((2026, seed))
    items: list[Item] = []
    for made in traffic.stream(rng):
        site = made.slices["site"]
        if faulty and site != FAULTY_SITE:
            continue
        example = pb.Example(slices=made.slices)
        if made.note is not None:
            example.parts.add(modality=pb.TEXT, text=made.note)
        if made.jpeg is not None:
            data = darken(made.jpeg) if faulty else made.jpeg
            example.parts.add(modality=pb.IMAGE, data=data, mime_type="image/jpeg")
        if made.wav is not None:
            data = add_noise(made.wav, rng) if faulty else made.wav
            example.parts.add(modality=pb.AUDIO, data=data, mime_type="audio/wav")
        items.append(Item(example.SerializeToString(), site, made.slices["shift"], made.label))
        if len(items) == CHUNK:
            return items
    return items


def pool(normal: int, faulty: int) -> tuple[list[Item], list[Item]]:
    tasks = [(n, False) for n in range(normal // CHUNK)]
    tasks += [(1000 + n, True) for n in range(faulty // CHUNK)]
    bar = tqdm(total=len(tasks) * CHUNK, desc="drawing traffic", unit=" requests")
    found: tuple[list[Item], list[Item]] = ([], [])
    with multiprocessing.get_context("spawn").Pool() as workers:
        for (_, is_faulty), items in zip(tasks, workers.imap(draw, tasks), strict=True):
            found[is_faulty].extend(items)
            bar.update(len(items))
    bar.close()
    return found


def bursts(items: list[Item], rng: np.random.Generator) -> Iterator[list[Item]]:
    """Neighbours of one site and shift, over and over, in another order each time round."""
    runs: list[list[Item]] = []
    for item in items:
        same = runs and (runs[-1][0].site, runs[-1][0].shift) == (item.site, item.shift)
        if same and len(runs[-1]) < 8:
            runs[-1].append(item)
        else:
            runs.append([item])
    while True:
        for place in rng.permutation(len(runs)):
            yield runs[place]


class Plant:
    """The clients: sends each burst when it is due, and the labels when they have become known."""

    def __init__(self, target: str, speed: float, seconds: float) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = InferenceStub(self._channel)
        self._speed = speed
        self._seconds = seconds
        self._labels: list[tuple[float, str, str]] = []  # simulated time it is known, id, label
        self._rng = np.random.default_rng(9)
        self._room = asyncio.Semaphore(64)
        self.sent = self.failed = self.told = 0

    async def play(
        self, normal: list[Item], faulty: list[Item], requests: int, elapsed_s: float
    ) -> None:
        """`elapsed_s` of the real time are over: the server's clock began when it was started."""
        streams = bursts(normal, self._rng), bursts(faulty, self._rng)
        began, due = time.monotonic() - elapsed_s, elapsed_s
        gap = (self._seconds - elapsed_s) / requests
        bar = tqdm(total=requests, desc="playing 14 days", unit=" requests")
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell(began))
            while self.sent < requests:
                day = 1 + due * self._speed / DAY_S
                run = next(streams[0])
                if day >= CHANGE_DAY and run[0].site == FAULTY_SITE:
                    run = next(streams[1])
                due += float(self._rng.exponential(gap * len(run)))
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                for item in run:
                    await self._room.acquire()
                    group.create_task(self._send(item, began))
                self.sent += len(run)
                bar.update(len(run))
                bar.set_postfix(day=f"{1 + (time.monotonic() - began) * self._speed / DAY_S:.1f}")
            telling.cancel()
        bar.close()

    async def _send(self, item: Item, began: float) -> None:
        request = pb.PredictRequest()
        request.examples.add().ParseFromString(item.example)
        clients = CLIENTS[item.site]
        client = clients[int(self._rng.integers(len(clients)))]
        try:
            response = await self._stub.Predict(request, metadata=(("trefoil-client", client),))
        except grpc.aio.AioRpcError:
            self.failed += 1
            return
        finally:
            self._room.release()
        if self._rng.random() < LABELLED_SHARE:
            delay_s = float(self._rng.lognormal(np.log(MEDIAN_DELAY_S), 0.8))
            now_s = (time.monotonic() - began) * self._speed
            known = (now_s + delay_s, response.results[0].prediction_id, item.label)
            heapq.heappush(self._labels, known)

    async def _tell(self, began: float) -> None:
        while True:
            await asyncio.sleep(0.25)
            now_s = (time.monotonic() - began) * self._speed
            known: list[tuple[float, str, str]] = []
            while self._labels and self._labels[0][0] <= now_s and len(known) < 200:
                known.append(heapq.heappop(self._labels))
            if known:
                await self._feed_back(known)

    async def _feed_back(self, known: list[tuple[float, str, str]]) -> None:
        request = pb.FeedbackRequest()
        for _, prediction, label in known:
            request.items.add(prediction_id=prediction, label=label, source="inspection")
        try:
            answer = await self._stub.Feedback(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            for one in known:  # in a moment again; what was taken is only a duplicate then
                heapq.heappush(self._labels, one)
            return
        self.told += sum(result.status == "joined" for result in answer.results)

    async def close(self) -> None:
        await self._channel.close()


def start_server(
    data: Path, target: str, speed: float, bundle: Path | None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "server.main", "--warm-pool", "2", "--listen", target]
    command += ["--data", str(data), "--name", "demo", "--simulated-time", f"{START},{speed:g}"]
    command += ["--sample-share", "0.02"]
    command += ["--bundle", str(bundle)] if bundle else []
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    probe = [sys.executable, "-m", "server.main", "probe", "--server", target]
    while subprocess.run(probe, capture_output=True).returncode != 0:
        if server.poll() is not None:
            raise SystemExit("the server did not start; run `make serve` to see why")
        time.sleep(0.5)
    return server


async def server_time(target: str) -> float:
    """Unix seconds by the server's simulated clock."""
    async with grpc.aio.insecure_channel(target) as channel:
        event = await ObserveStub(channel).Watch(ob.WatchRequest(once=True)).read()
        return float(event.server_unix_ns / 1e9)


async def alerts(target: str) -> list[ob.AlertRow]:
    """Every alert that fired, oldest first, each in its latest state."""
    found: dict[str, ob.AlertRow] = {}
    async with grpc.aio.insecure_channel(target) as channel:
        request = ob.HistoryRequest(kinds=["alert"], to_unix_ms=int(2**52))
        async for event in ObserveStub(channel).History(request):
            if event.HasField("alert"):
                found[event.alert.id] = event.alert
    fired = (alert for alert in found.values() if alert.state != "pending")
    return sorted(fired, key=lambda alert: alert.opened_unix_ms)


async def worst(target: str, measure: str, from_day: float) -> list[ob.SliceRow]:
    begin = int((START_S + (from_day - 1) * DAY_S) * 1000)
    async with grpc.aio.insecure_channel(target) as channel:
        request = ob.SlicesRequest(
            measure=measure, limit=3, from_unix_ms=begin, to_unix_ms=int(2**52)
        )
        return list((await ObserveStub(channel).Slices(request)).slices)


def day_of(unix_ms: int) -> float:
    return 1 + (unix_ms / 1000 - START_S) / DAY_S


async def run(arguments: argparse.Namespace, data: Path) -> int:
    normal, faulty = pool(arguments.pool, arguments.pool // 6)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        target = arguments.listen or f"127.0.0.1:{sock.getsockname()[1]}"
    speed = DAYS * DAY_S / arguments.seconds
    server = start_server(data, target, speed, arguments.bundle)
    print(f"console: .venv/bin/console {target}")
    try:
        plant = Plant(target, speed, arguments.seconds)
        elapsed_s = (await server_time(target) - START_S) / speed
        await plant.play(normal, faulty, arguments.requests, elapsed_s)
        await plant.close()
        fired = await alerts(target)
        slices = await worst(target, "value", CHANGE_DAY)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    print(f"{plant.sent} requests, {plant.failed} failed, {plant.told} labels joined\n")
    for alert in fired:
        print(
            f"day {day_of(alert.opened_unix_ms):5.1f}  {alert.severity:8}  {alert.kind:10}  "
            f"{alert.summary}"
        )
    early = sum(day_of(alert.opened_unix_ms) < CHANGE_DAY for alert in fired)
    print(f"\nalerts before day {CHANGE_DAY}: {early}; since: {len(fired) - early}")
    for found in slices:
        print(f"worst by value since day {CHANGE_DAY}: {found.words}")
    return 0 if early == 0 and len(fired) > 0 else 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Two simulated weeks of a plant, with a fault.")
    parser.add_argument("--requests", type=int, default=24_000)
    parser.add_argument("--seconds", type=float, default=240.0, help="real time the weeks take")
    parser.add_argument("--pool", type=int, default=6_000, help="different requests to draw from")
    parser.add_argument("--listen", default="", help="HOST:PORT (a free port of this host)")
    parser.add_argument("--bundle", type=Path, help="another than the embedded one")
    parser.add_argument("--data", type=Path, default=Path(".data/demo"))
    arguments = parser.parse_args()
    data = arguments.data / time.strftime("%Y%m%d-%H%M%S")
    data.mkdir(parents=True)
    sys.exit(asyncio.run(run(arguments, data)))


if __name__ == "__main__":
    main()
