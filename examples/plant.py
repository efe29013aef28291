"""A plant's clients: what they send, when, and the labels that arrive much later."""

from __future__ import annotations

import asyncio
import heapq
import io
import multiprocessing
import os
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from recipes.triage import traffic as recipe

DAY_S = 86_400.0
DAYS = 14
CHANGE_DAY = 9  # counted from 1: eight quiet days, then six with a fault
FAULTY_SITE = "b"
CLIENTS = {"a": ("press-1", "press-2"), "b": ("oven-1",), "c": ("saw-1", "saw-2")}
LABELLED_SHARE = 0.6
MEDIAN_DELAY_S = 6 * 3600.0
CHUNK = 250
# If the machine answers too slowly, clients send fewer requests, not later ones.
MOST_BEHIND_S = 2.0


@dataclass(frozen=True, slots=True)
class Item:
    """One request of the pool, and its true label."""

    example: bytes
    site: str
    shift: str
    label: str


def darken(jpeg: bytes) -> bytes:
    """The effect of a dirty lens and a failing light on a photo."""
    out = io.BytesIO()
    ImageEnhance.Brightness(Image.open(io.BytesIO(jpeg))).enhance(0.45).save(
        out, "JPEG", quality=80
    )
    return out.getvalue()


def add_noise(wav: bytes, rng: np.random.Generator) -> bytes:
    """The effect of a loose microphone plug on a sound."""
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
    """A chunk of the pool; `faulty` ones belong to site b and have its fault."""
    seed, faulty = task
    rng = np.random.default_rng((2026, seed))
    items: list[Item] = []
    for made in recipe.stream(rng):
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


class Traffic:
    """Requests to play. Other processes draw them meanwhile: normal ones of all sites, and faulty
    ones of one site. The lists only grow."""

    def __init__(self, normal: int, faulty: int) -> None:
        self.normal: list[Item] = []
        self.faulty: list[Item] = []
        self._tasks = _tasks(normal // CHUNK, faulty // CHUNK)
        self._first = threading.Event()
        self._failed: Exception | None = None
        self.rate = 0.0  # requests a second, over the first chunk of each process

    @property
    def left(self) -> int:
        return max(0, len(self._tasks) * CHUNK - len(self.normal) - len(self.faulty))

    def begin(self) -> None:
        """Returns once every process has drawn its first chunk; then `rate` is known."""
        threading.Thread(target=self._draw, name="drawing", daemon=True).start()
        self._first.wait()
        if self._failed is not None:
            raise self._failed

    def _draw(self) -> None:
        processes = min(os.cpu_count() or 1, len(self._tasks))
        try:
            with multiprocessing.get_context("spawn").Pool(processes, _give_way) as workers:
                began = time.monotonic()
                for (_, is_faulty), items in zip(
                    self._tasks, workers.imap(draw, self._tasks), strict=True
                ):
                    (self.faulty if is_faulty else self.normal).extend(items)
                    drawn = len(self.normal) + len(self.faulty)
                    if not self._first.is_set() and drawn >= processes * CHUNK:
                        self.rate = drawn / (time.monotonic() - began)
                        self._first.set()
        except Exception as error:  # the edge of this thread: `begin` raises it
            self._failed = error
        self._first.set()


def _give_way() -> None:
    """Called in each drawing process: lowers its priority below the server's."""
    os.nice(10)


def _tasks(normal: int, faulty: int) -> list[tuple[int, bool]]:
    """The faulty chunks spread among the others, so that some are ready for day 9 on any
    machine."""
    tasks = [(n, (n + 0.5) / max(normal, 1), False) for n in range(normal)]
    tasks += [(1000 + n, (n + 0.6) / max(faulty, 1), True) for n in range(faulty)]
    return [(seed, is_faulty) for seed, _, is_faulty in sorted(tasks, key=lambda one: one[1])]


def bursts(items: list[Item], rng: np.random.Generator) -> Iterator[list[Item]]:
    """Neighbouring requests of one site and shift. New ones in `items`, which may grow, come first;
    then all are repeated, in another order each time. It ends only when `items` is empty."""
    runs: list[list[Item]] = []
    again: list[int] = []
    seen = 0
    while items:
        if seen < len(items):
            runs.append(_run_at(items, seen))
            seen += len(runs[-1])
            yield runs[-1]
            continue
        if not again:
            again = rng.permutation(len(runs)).tolist()
        yield runs[again.pop()]


def _run_at(items: list[Item], start: int) -> list[Item]:
    first, end = items[start], start + 1
    while end < min(len(items), start + 8) and (items[end].site, items[end].shift) == (
        first.site,
        first.shift,
    ):
        end += 1
    return items[start:end]


class Plant:
    """The clients: they send each burst when it is due, and each label when it becomes known."""

    def __init__(self, target: str, speed: float, seconds: float) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub = InferenceStub(self._channel)
        self._speed = speed
        self._seconds = seconds
        # (simulated time when it becomes known, id, label).
        self._labels: list[tuple[float, str, str]] = []
        self._rng = np.random.default_rng(9)
        self._room = asyncio.Semaphore(64)
        self.sent = self.failed = self.reported = 0

    async def play(self, traffic: Traffic, requests: int, elapsed_s: float) -> None:
        """Plays two weeks by the server's clock, which began `elapsed_s` ago: about `requests`
        requests, or as many as the machine can answer in that time."""
        streams = bursts(traffic.normal, self._rng), bursts(traffic.faulty, self._rng)
        began, due = time.monotonic() - elapsed_s, elapsed_s
        gap = (self._seconds - elapsed_s) / requests
        bar = tqdm(total=DAYS, bar_format="{desc} {bar} {elapsed}<{remaining}", mininterval=0.5)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send_feedback(began))
            while (now := time.monotonic() - began) < self._seconds:
                day = 1 + now * self._speed / DAY_S
                run = next(streams[0])
                if day >= CHANGE_DAY and run[0].site == FAULTY_SITE and traffic.faulty:
                    run = next(streams[1])
                due = max(due, now - MOST_BEHIND_S) + float(self._rng.exponential(gap * len(run)))
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                for item in run:
                    await self._room.acquire()
                    group.create_task(self._send(item, began))
                self.sent += len(run)
                bar.set_description_str(f"day {int(day):2}, {self.sent:6,} requests", refresh=False)
                bar.update(min(day - 1, DAYS) - bar.n)
            sending.cancel()
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

    async def _send_feedback(self, began: float) -> None:
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
            # Sent again in a moment; labels that were accepted are then only duplicates.
            for one in known:
                heapq.heappush(self._labels, one)
            return
        self.reported += sum(result.status == "joined" for result in answer.results)

    async def close(self) -> None:
        await self._channel.close()
