"""A replica process with its own small model: `python -m tests.support.stub_replica`.

The first text of an example sets what happens to it. Words: `sleep S` in the forward, `slow S` in
decoding, `bad` input, `boom` (an exception in the forward), `die` (the process ends), `die later`
(after a token was sent). The label of an answer is the process id, its confidence the number of
rows decoded so far.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proto import inference_pb2, replica_pb2
from server.config import ServerConfig
from server.pool.pool import Pool
from server.pool.spawn import Spawn
from server.replica import link
from server.replica.batching import Budget
from server.replica.model import Lane, Ready, Rejected
from server.replica.worker import Loaded, LoadRefused, Progress, WorkerSettings, serve
from server.types import Work
from tests.support.warm_replicas import warm_spawner

MODULE = "tests.support.stub_replica"
STAMP = "ab" * 32
MIXES = ("image", "text")


@dataclass(slots=True)
class StubText:
    words: list[str]
    written: int = 0
    taken: int = 0
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        return self.cancelled or self.written >= len(self.words)

    def take(self) -> str:
        piece = "".join(f"{word} " for word in self.words[self.taken : self.written])
        self.taken = self.written
        return piece

    def cancel(self) -> None:
        self.cancelled = True


def _lose_weights(folder: Path) -> None:
    """Ends as a replica does whose holder of weights has ended, three times in all."""
    deaths = len(list(folder.iterdir()))
    if deaths < 3:
        (folder / str(deaths)).touch()
        os._exit(link.EXIT_WEIGHTS_LOST)


class StubModel:
    """`probes` is one word for each probe to come: right, wrong or slow; the last one stays. Every
    `fail_every`th row is refused; 0: none. `short`: no memory for a text that begins with large."""

    def __init__(
        self,
        probes: Sequence[str] = ("right",),
        stamp: str = STAMP,
        fail_every: int = 0,
        short: bool = False,
    ) -> None:
        self._short = short
        self.threads = set[int]()  # those that used the model, by identity
        self._fail_every = fail_every
        self._probes = list(probes)
        self._stamp = stamp
        self._decoded = 0
        self._texts: list[StubText] = []

    def lane(self, example: bytes) -> Lane:
        text = inference_pb2.Example.FromString(example).parts[0].text
        return "heavy" if text.startswith("slow") else "direct"

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        text = inference_pb2.Example.FromString(example).parts[0].text
        if text.startswith("bad"):
            raise Rejected("parts[0].text", "BAD_WORD", "it says so")
        if text.startswith("slow"):
            time.sleep(float(text.split()[1]))
        if self._short and text.startswith("large"):
            raise MemoryError
        self._decoded += 1
        if self._fail_every and self._decoded % self._fail_every == 0:
            raise Rejected("", "FLAKY", "this replica is like that")
        return Ready(text, max(1, len(text)), 0.01, 0.01, ("text",))

    def forward(self, rows: Sequence[str]) -> Sequence[str]:
        for text in rows:
            if text == "die":
                os._exit(9)
            if text.startswith("lost"):
                _lose_weights(Path(text.split()[1]))
            if text.startswith("boom"):
                raise RuntimeError("boom")
            if text.startswith("sleep"):
                time.sleep(float(text.split()[1]))
        return rows

    def wait(self, found: Any) -> None:
        pass

    def finish(self, found: Sequence[str]) -> list[replica_pb2.Done]:
        return [self._done() for _ in found]

    def enter_thread(self) -> None:
        self.threads.add(threading.get_ident())

    def startable(self, rows: Sequence[str]) -> int:
        return min(1, len(rows))

    def text_bytes(self) -> tuple[int, int]:
        return 0, 0

    def start(self, rows: Sequence[str]) -> list[StubText]:
        (text,) = rows
        self._texts.append(StubText(text.split()))
        self.step()
        return self._texts[-1:]

    def step(self) -> None:
        time.sleep(0.005)
        self._texts = [text for text in self._texts if not text.finished]
        for text in self._texts:
            if text.words[0] == "die" and text.written == 2:
                os._exit(9)
            text.written += 1

    def end(self, row: Any, text: StubText) -> replica_pb2.Token:
        return replica_pb2.Token(
            finish_reason="stop",
            tokens=text.written,
            stamp_hex=self._stamp,
            features=self._features(),
        )

    def probe(self, mixes: Sequence[str]) -> Iterator[replica_pb2.MixProbe]:
        verdict = self._probes.pop(0) if len(self._probes) > 1 else self._probes[0]
        for mix in mixes or MIXES:
            yield replica_pb2.MixProbe(
                mix=mix,
                p50_ms=80.0 if verdict == "slow" else 1.0,
                max_ms=90.0,
                limit_ms=10.0,
                runs=3,
                worst_difference=1.0 if verdict == "wrong" else 0.0,
                tolerance=0.1,
                ok=verdict == "right",
                reason=f"the probe was {verdict}",
            )

    def broken_by(self, error: Exception) -> bool:
        return False

    def _done(self) -> replica_pb2.Done:
        done = replica_pb2.Done(stamp_hex=self._stamp, features=self._features())
        done.prediction.label = str(os.getpid())
        done.prediction.confidence = self._decoded
        return done

    def _features(self) -> bytes:
        return np.array([1.0, np.nan], dtype="<f4").tobytes()


@dataclass(frozen=True, slots=True)
class StubChange:
    kind: str
    name: str
    message: str
    affects_answers_now: bool = False


class StubWatch:
    """Reports what a file holds: one line an item, `kind name now|later message`; no file: nothing.
    A file that holds `broken` cannot be looked at. `verify` reports one thing more than `look`."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None

    def look(self) -> list[StubChange]:
        if self._path is None or not self._path.exists():
            return []
        found = []
        for line in self._path.read_text().splitlines():
            if line == "broken":
                raise RuntimeError("it is broken")
            kind, name, when, message = line.split(maxsplit=3)
            found.append(StubChange(kind, name, message, when == "now"))
        return found

    def verify(self, disk: bool) -> list[StubChange]:
        found = self.look()
        if disk and found:
            found.append(StubChange("file", "weights", "differs in a byte"))
        return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--probes", default="right")
    parser.add_argument("--stamps", default=STAMP)
    parser.add_argument("--refuse", default="")
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--short-below", type=int, default=0, help="replicas without memory")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--moved", default="")
    parser.add_argument("--skew-interval", type=float, default=60.0)
    arguments = parser.parse_args(argv)

    def load(progress: Progress) -> Loaded:
        progress("stub", 0.5)
        if arguments.crash:
            os._exit(3)
        if arguments.refuse:
            raise LoadRefused("hash", arguments.refuse)
        stamps = arguments.stamps.split(",")
        stamp = stamps[min(arguments.index, len(stamps) - 1)]
        hello = replica_pb2.Hello(stamp_hex=stamp, stamp_name="stub", labels=["a"], device="cpu")
        hello.features.add(name="one", modality="text", kind="numeric", unit="1")
        hello.features.add(name="none", modality="text", kind="numeric", unit="1")
        short = arguments.index < arguments.short_below
        model = StubModel(arguments.probes.split(","), stamp, arguments.fail_every, short)
        budget, watch = Budget(arguments.rows, 1 << 20), StubWatch(arguments.moved)
        return Loaded(model, hello, budget, False, dict, watch)

    serve(WorkerSettings(arguments.fd, arguments.index, 1, 4, arguments.skew_interval), load)


# ---- for tests -----------------------------------------------------------------------------------


def stub_spawner(**options: object) -> Spawn:
    return warm_spawner(MODULE, **options)


def stub_config(**changes: object) -> ServerConfig:
    settings: dict[str, Any] = {"bundle": Path("/nowhere"), "restart_first_s": 0.05}
    return ServerConfig(**(settings | changes))


def stub_pool(config: ServerConfig, **options: object) -> Pool:
    return Pool(config, stub_spawner(**options))


def work(entry_id: str, text: str, **changes: Any) -> Work:
    example = inference_pb2.Example()
    example.parts.add(text=text)
    fields: dict[str, Any] = {
        "id": entry_id,
        "example": example.SerializeToString(),
        "task": "classify",
        "labels": (),
        "want_embedding": False,
        "max_new_tokens": 0,
        "priority": 1,
        "deadline": None,
        "session": "",
        "expected_stamps": frozenset(),
        "estimated_tokens": 10,
        "client": "test",
        "slices": {},
        "keep_payload": True,
        "mix": "text",
    }
    return Work(**(fields | changes))


if __name__ == "__main__":
    main()
