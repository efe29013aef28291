"""A replica process that answers by rules which a test writes into the example's own text:
`python -m tests.support.ruled_replica`. tests/support/ruled_engine.py has the engine over it.

The rules, for each text part of an example:

- `CODE REASON`, such as `INTERNAL DIED`: the row ends with that fault;
- `CODE REASON once`: only the first row with this text does;
- `wait`: the row is not decoded before the gate opens; other rows pass it;
- `sleep S`: the forward of the row takes so many seconds;
- `endless`: a generated text goes on until it is cancelled.

Everything else is answered with the first label. A generated text has the words of --words.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proto import inference_pb2 as pb
from proto import replica_pb2
from server.replica import link
from server.replica.batching import Budget
from server.replica.fault_guard import Failed
from server.replica.model import Lane, Ready
from server.replica.worker import Loaded, Progress, WorkerSettings, serve
from server.request.modalities import NAMES
from server.types import Facts
from tests.support.stub_replica import STAMP, StubModel, StubWatch

MODULE = "tests.support.ruled_replica"
LABELS = ("ok", "look", "stop")
WORDS = "smoke near the drive"
DIMENSIONS = 4
DECODERS = 2  # one is left for other rows when the first waits
STEP_S = 0.005


def through(gate: str) -> None:
    """Return when the gate is open: nobody has locked this file for itself."""
    with Path(gate).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)


@dataclass(frozen=True, slots=True)
class Row:
    work: replica_pb2.Work
    texts: tuple[str, ...]


class RuledText:
    """A text being written: one word of `words` in each step."""

    def __init__(self, words: Iterator[str]) -> None:
        self.written = 0
        self._words = words
        self._next: str | None = next(words)
        self._piece = ""
        self._cancelled = False

    @property
    def finished(self) -> bool:
        return self._cancelled or self._next is None

    def take(self) -> str:
        piece, self._piece = self._piece, ""
        return piece

    def cancel(self) -> None:
        self._cancelled = True

    def write(self) -> None:
        after = next(self._words, None)
        self._piece += f"{self._next}" if after is None else f"{self._next} "
        self._next = after
        self.written += 1


class RuledModel(StubModel):
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(stamp=options.stamp)
        self._gate, self._words = options.gate, options.words.split()
        self._pause_s = options.pause_ms / 1e3
        self._refused = set[str]()  # texts that end with a fault once
        self._writing: list[RuledText] = []
        self._lock = threading.Lock()

    def lane(self, example: bytes) -> Lane:
        return "heavy" if "wait" in _texts(example) else "direct"

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        began = time.perf_counter()
        parts = pb.Example.FromString(example).parts
        for index, part in enumerate(parts):
            if part.text == "wait":
                through(self._gate)
            self._refuse(index, part.text)
        mix = sorted({NAMES.get(part.modality) or "text" for part in parts})
        row = Row(work, tuple(part.text for part in parts))
        return Ready(row, 1, (time.perf_counter() - began) * 1e3, 0.0, tuple(mix))

    def _refuse(self, index: int, text: str) -> None:
        code, _, rest = text.partition(" ")
        reason, _, once = rest.partition(" ")
        if not code.isupper() or not reason:
            return
        with self._lock:
            if text in self._refused:
                return
            if once == "once":
                self._refused.add(text)
        field = f"parts[{index}].text" if code == "INVALID_ARGUMENT" else ""
        message = "as the text asks"
        raise Failed(pb.Fault(code=code, field=field, reason=reason, message=message))

    def forward(self, rows: Sequence[Any]) -> Any:
        time.sleep(self._pause_s)
        for text in (text for row in rows for text in row.texts):
            if text.startswith("sleep "):
                time.sleep(float(text.split()[1]))
        return rows

    def finish(self, found: Sequence[Any]) -> list[replica_pb2.Done]:
        return [self._answer(row.work) for row in found]

    def _answer(self, work: replica_pb2.Work) -> replica_pb2.Done:
        labels = list(work.labels) or LABELS
        rest = 0.3 / (len(labels) - 1) if len(labels) > 1 else 0.0
        shares = [1.0 - rest * (len(labels) - 1)] + [rest] * (len(labels) - 1)
        done = replica_pb2.Done(stamp_hex=self._stamp, features=self._features())
        found = done.prediction
        found.label, found.confidence, found.margin = labels[0], shares[0], 0.5
        found.entropy, found.closed_set_mass = 0.8, 0.9
        for label, share in zip(labels, shares, strict=True):
            found.scores.add(label=label, probability=share, log_prob=share - 1)
        if work.want_embedding:
            found.embedding.values = struct.pack(f"<{DIMENSIONS}f", *[0.5] * DIMENSIONS)
        return done

    def start(self, rows: Sequence[Any]) -> Any:
        (row,) = rows
        words = iter(self._words)
        endless = "endless" in row.texts
        text = RuledText(itertools.chain(words, itertools.repeat("on")) if endless else words)
        text.write()
        self._writing.append(text)
        return [text]

    def step(self) -> None:
        time.sleep(self._pause_s or STEP_S)
        self._writing = [text for text in self._writing if not text.finished]
        for text in self._writing:
            text.write()


def _texts(example: bytes) -> list[str]:
    return [part.text for part in pb.Example.FromString(example).parts]


def hello(stamp: str = STAMP, limits: str = "image_pixels=1e6") -> replica_pb2.Hello:
    """How such a replica introduces itself. `limits`: NAME=VALUE, separated by commas."""
    message = replica_pb2.Hello(
        stamp_hex=stamp,
        stamp_name=f"triage-2026.11.23+{stamp[:12]}",
        stamp_parts={"weights": "11" * 32, "code": "22" * 32},
        stamp_detail={"name": "triage-2026.11.23", "libraries/torch": "2.13.0"},
        env={"device": "cpu"},
        reasons={"device": "no accelerator was found"},
        labels=LABELS,
        embedding_dimensions=DIMENSIONS,
        card="# Card",
        bundle_path="/bundle",
        device="cpu",
    )
    for name in ("one", "none"):
        message.features.add(name=name, modality="text", kind="numeric", unit="1")
    for limit in filter(None, limits.split(",")):
        name, _, value = limit.partition("=")
        message.limits.add(name=name, value=float(value))
    return message


def facts(**options: str) -> Facts:
    """What the engine knows of a bundle with such replicas."""
    return link.facts(hello(**options))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--gate", default="/dev/null", help="the file that is locked while closed")
    parser.add_argument("--hold-load", action="store_true", help="load after the gate has opened")
    parser.add_argument("--stamp", default=STAMP)
    parser.add_argument("--limits", default="image_pixels=1e6")
    parser.add_argument("--rows", type=int, default=8, help="of one forward")
    parser.add_argument("--words", default=WORDS, help="of a generated text")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="in a forward, before a word")
    options = parser.parse_args(argv)

    def load(progress: Progress) -> Loaded:
        progress("ruled", 0.5)
        if options.hold_load:
            through(options.gate)
        introduced = hello(options.stamp, options.limits)
        budget = Budget(options.rows, 1 << 20)
        return Loaded(RuledModel(options), introduced, budget, False, dict, StubWatch(""))

    serve(WorkerSettings(options.fd, options.index, DECODERS, 8), load)


if __name__ == "__main__":
    main()
