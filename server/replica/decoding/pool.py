"""The decoders of one replica: a few processes, each used by one row at a time.

Parts have a budget of CPU time, so that a busy machine refuses nothing, and a row has a limit of
waiting time. A decoder that exceeds a limit, dies or runs out of memory makes its row fail with
that reason, and is replaced. One death is forgiven: the parts are decoded again, by a fresh
decoder.
"""

from __future__ import annotations

import json
import queue
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import waitstatus_to_exitcode
from typing import Any

from proto import inference_pb2
from server.replica.decoding.arena import Arena, aligned
from server.replica.decoding.nursery import Child, Nursery, NurseryLost
from server.replica.fault_guard import Failed

MIB = 1 << 20
# Memory beyond what a decoder begins with (130 MiB) and its arena. 25 megapixels of WebP take 330
# MiB.
HEAP_BYTES = 1024 * MIB
ROW_CPU_S = 16.0  # CPU time of all parts of a row together
# Time of all parts of a row together, on a machine that gives a decoder no CPU time. It is below
# `--stall`, after which the front would replace the replica.
ROW_WAIT_S = 20.0
TRIES = 2
AGAIN = "Save it again as a plain PNG, baseline JPEG or WAV."
MESSAGE_BYTES = 1 << 16
_SHORTEST_WAIT_S = 0.005


class DecoderRefused(Exception):
    """The part cannot be decoded, and the part itself is the cause."""

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """A part to decode: its path in the row, its fields as JSON values, and its content."""

    field: str
    values: Mapping[str, Any]
    data: bytes


@dataclass(slots=True)
class DecodingCounts:
    """Counts since start. `restarts`: decoders that replaced another one, for any reason."""

    restarts: int = 0
    deadlines: int = 0  # decoders ended because a part took too long


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """`limits`: the fields of InputLimits. Sizes in bytes: of the parts that are decoded together,
    and of the most that the parts of a row decode to."""

    limits: Mapping[str, Any]
    inputs: int
    outputs: int
    heap: int = HEAP_BYTES
    row_cpu_s: float = ROW_CPU_S
    row_wait_s: float = ROW_WAIT_S


class DecoderPool:
    """`count` decoders, each used by one row at a time. Thread-safe."""

    def __init__(self, count: int, settings: DecodingSettings, nursery: Nursery) -> None:
        self.counts = DecodingCounts()
        self.sandbox = ""  # describes the sandbox of a decoder
        self.settings = settings
        self._nursery = nursery
        self._decoders = [Decoder(self, nursery) for _ in range(count)]
        self._idle: queue.LifoQueue[Decoder] = queue.LifoQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)

    @property
    def pids(self) -> list[int]:
        return [decoder.pid for decoder in self._decoders if decoder.pid]

    def start(self) -> None:
        """Start every decoder, so that no caller waits for one. Raises NurseryLost, OSError."""
        for decoder in self._decoders:
            decoder.start()

    @contextmanager
    def row(self) -> Iterator[RowDecoding]:
        """The decoding of one row. The results lie in memory that the next row reuses."""
        lent = RowDecoding(self._idle.get, self.settings)
        try:
            yield lent
        finally:
            if lent.decoder is not None:
                lent.decoder.trim()
                self._idle.put(lent.decoder)

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.end()
        self._nursery.close()


class RowDecoding:
    """Decodes the parts of one row. Takes a decoder when it needs one."""

    def __init__(self, take: Callable[[], Decoder], settings: DecodingSettings) -> None:
        self.decoder: Decoder | None = None
        self._take = take
        self._offset = 0
        self._cpu_s = settings.row_cpu_s
        self._wait_s = settings.row_wait_s

    def decode(
        self, parts: Sequence[EncodedPart], allowed_s: float
    ) -> tuple[list[dict[str, Any]], DecoderRefused | None]:
        """(values of pipelines.media.packed for each part up to the first that is refused, that
        refusal). `block` has the bytes that belong to each, in this order.

        `allowed_s`: CPU time of all parts. Raises DecoderRefused for a part that took too long or
        crashed the decoder; MemoryError; Failed; RuntimeError for an error caused neither by a part
        nor by the machine.
        """
        if self.decoder is None:
            self.decoder = self._take()
        decoder, began, before = self.decoder, time.monotonic(), self.decoder.spent_s
        budget = DecodingBudget(min(allowed_s, self._cpu_s), self._wait_s)
        try:
            return decoder.ask(parts, self._offset, budget)
        finally:
            self._cpu_s -= decoder.spent_s - before
            self._wait_s -= time.monotonic() - began

    def block(self, size: int) -> memoryview:
        """The memory of the next part, of which `size` bytes were decoded. Raises ValueError beyond
        the arena."""
        assert self.decoder is not None
        found = self.decoder.arena.output(self._offset, size)
        self._offset = aligned(self._offset + size)
        return found


@dataclass(frozen=True, slots=True)
class DecodingBudget:
    """Limits of one exchange: CPU seconds of the decoder, and seconds of the clock."""

    cpu_s: float
    wait_s: float


class Decoder:
    """One place in the pool: an arena, and the process that currently works in it."""

    def __init__(self, pool: DecoderPool, nursery: Nursery) -> None:
        settings = pool.settings
        self.arena = Arena(settings.inputs, settings.outputs)
        self.spent_s = 0.0  # CPU time of all processes in this place
        self._pool = pool
        self._nursery = nursery
        self._child: Child | None = None
        self._started = False

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def start(self) -> Child:
        """Start a process. Raises NurseryLost."""
        if self._child is None:
            settings = self._pool.settings
            asked = {
                "limits": dict(settings.limits),
                "inputs": self.arena.inputs,
                "outputs": self.arena.outputs,
                "heap": settings.heap,
            }
            self._child = self._nursery.fork(asked, self.arena.descriptor)
            self._pool.sandbox = self._child.sandbox
            self._pool.counts.restarts += self._started
            self._started = True
        return self._child

    def ask(
        self, parts: Sequence[EncodedPart], offset: int, budget: DecodingBudget
    ) -> tuple[list[dict[str, Any]], DecoderRefused | None]:
        """As RowDecoding.decode; the first block is written at `offset` of the outputs."""
        self.arena.put(part.data for part in parts)
        listed = [
            {"field": part.field, "part": part.values, "size": len(part.data)} for part in parts
        ]
        request = json.dumps({"parts": listed, "offset": offset}).encode()
        ends = []
        for _ in range(TRIES):
            self.arena.turn = 0
            try:
                child = self.start()
            except NurseryLost as error:
                raise _lost("no decoder can be started on this machine") from error
            reply = self._exchange(child, request, parts, budget)
            if reply is not None:
                return self._read(reply, len(parts))
            ends.append(self._buried(child))
        raise _died(ends[-1], self._at(parts))

    def _at(self, parts: Sequence[EncodedPart]) -> str:
        """The path of the part that the decoder was working on; the value is checked, as the
        decoder may write anything."""
        return f"{parts[min(self.arena.turn, len(parts) - 1)].field}.data"

    def trim(self) -> None:
        self.arena.trim()

    def end(self) -> int:
        """End the process, if there is one; returns its wait status."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.kill()
        status = self._nursery.reap(child.pid)
        child.close()
        return status

    def _exchange(
        self, child: Child, request: bytes, parts: Sequence[EncodedPart], budget: DecodingBudget
    ) -> bytes | None:
        """The reply; None when the decoder has died."""
        began, clock = time.monotonic(), cpu_clock(child.pid)
        spent = before = _cpu(clock)
        try:
            child.link.settimeout(max(_SHORTEST_WAIT_S, min(budget.cpu_s, budget.wait_s)))
            child.link.send(request)
            while True:
                try:
                    return child.link.recv(MESSAGE_BYTES) or None
                except TimeoutError:
                    spent = _cpu(clock)
                cpu_left = budget.cpu_s - (spent - before)
                wait_left = budget.wait_s - (time.monotonic() - began)
                if min(cpu_left, wait_left) <= 0.0:
                    raise self._too_long(parts, budget, cpu_left <= 0.0)
                child.link.settimeout(max(_SHORTEST_WAIT_S, min(cpu_left, wait_left)))
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            self.spent_s += max(spent, _cpu(clock)) - before

    def _too_long(
        self, parts: Sequence[EncodedPart], budget: DecodingBudget, worked: bool
    ) -> Exception:
        self._pool.counts.deadlines += 1
        self.end()
        if worked:
            what = f"decoding it takes more than {budget.cpu_s:.1f} s, the limit for its size"
            return DecoderRefused(self._at(parts), "DECODING_TOO_LONG", f"{what}. {AGAIN}")
        message = f"decoding waited {budget.wait_s:.0f} s for a processor; come back later"
        return _failed("RESOURCE_EXHAUSTED", "DECODER_STARVED", message)

    def _read(self, reply: bytes, most: int) -> tuple[list[dict[str, Any]], DecoderRefused | None]:
        """Checks the form of a reply; a decoder that misbehaves is replaced."""
        try:
            answers = json.loads(reply)
            decoded = [dict(answer["decoded"]) for answer in answers if "decoded" in answer]
            last = answers[-1]
            if len(answers) > most or len(decoded) < len(answers) - ("decoded" not in last):
                raise ValueError(f"{len(answers)} answers for {most} parts")
            if "refused" in last:
                field, reason, message = map(str, last["refused"])
                return decoded, DecoderRefused(field, reason, message)
            if "decoded" in last and len(decoded) == most:
                return decoded, None
            self.end()
            if "memory" in last:
                raise MemoryError("a decoder has no memory left for the part")
            raise RuntimeError(f"in a decoder: {last['error']}")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            self.end()
            raise RuntimeError("a decoder sent a reply that is not one") from error

    def _buried(self, child: Child) -> int:
        """The exit code of a decoder that has closed its link; negative: a signal."""
        assert child is self._child
        return waitstatus_to_exitcode(self.end())


def cpu_clock(pid: int) -> int:
    """The clock id of a process's CPU time, computed as clock_getcpuclockid(3) does on Linux."""
    return (~pid << 3) | 2


def _cpu(clock: int) -> float:
    """Seconds on that clock; 0 once the process is gone."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def _died(code: int, field: str) -> Exception:
    if code in (-signal.SIGKILL, 0) or code > 0:
        # Killed by the kernel for lack of memory, or by an operator: the part may not be the cause.
        return _lost(f"{TRIES} decoders ended while they had the part")
    name = signal.Signals(-code).name
    return DecoderRefused(
        field,
        "DECODER_CRASHED",
        f"decoding it ended the decoder with {name}, {TRIES} times. {AGAIN}",
    )


def _lost(message: str) -> Failed:
    return _failed("UNAVAILABLE", "DECODER_LOST", f"{message}; send the row again")


def _failed(code: str, reason: str, message: str) -> Failed:
    return Failed(inference_pb2.Fault(code=code, reason=reason, message=message))
