"""Frames of proto/replica.proto over a unix socket, and their meaning for the front.

A frame is a 4-byte little-endian length and one message; after a WorkBatch come the payloads of its
items, unchanged. The replica's end blocks (it has threads), the front's end is a pair of asyncio
streams. Protobuf ends here: the code behind this file sees plain data.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

from proto import inference_pb2, replica_pb2
from server.telemetry.outputs import Timing, outputs_of
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import IntegrityChange
from server.types import (
    PART_USED_FIELDS,
    Answer,
    Evidence,
    Facts,
    Fault,
    LabelScore,
    Outcome,
    PartUsed,
    Work,
)

LENGTH = struct.Struct("<I")
SOCKET_BYTES = 4 << 20  # requested from the kernel, which may give less
LONGEST_FRAME = 1 << 30
PIECES_AT_ONCE = 64  # pieces in one sendmsg; the kernel takes 1,024
EXIT_WEIGHTS_LOST = 75  # EX_TEMPFAIL of sysexits.h: the holder of the weights has ended
HEARTBEAT_S = 2.0  # each replica sends a Load message at least this often


class LinkBroken(Exception):
    """The other end sent something that is not a frame."""


class Vectors:
    """Sends pieces in order without copying them, whereas asyncio's own transport copies all that
    the kernel does not take at once. Never waits. Pieces that a dead end cannot receive are
    dropped, as the reader of the other direction will notice the end."""

    def __init__(self, sock: socket.socket) -> None:
        # Its own descriptor: the loop watches the other one for a transport.
        self._sock = sock.dup()
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[memoryview] = deque()
        self._watched = False

    def write(self, pieces: Iterable[bytes]) -> None:
        self._unsent.extend(memoryview(piece) for piece in pieces if piece)
        if not self._watched:
            self._send()

    def close(self) -> None:
        self._watch(False)
        self._unsent.clear()
        self._sock.close()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._sent(self._sock.sendmsg(islice(self._unsent, PIECES_AT_ONCE)))
        except BlockingIOError:
            self._watch(True)
            return
        except OSError:
            self._unsent.clear()
        self._watch(False)

    def _sent(self, size: int) -> None:
        while size:
            first = self._unsent.popleft()
            if len(first) > size:
                self._unsent.appendleft(first[size:])
            size -= min(size, len(first))

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watched:
            self._loop.add_writer(self._sock, self._send)
        elif self._watched and not wanted:
            self._loop.remove_writer(self._sock)
        self._watched = wanted


@dataclass(eq=False)
class FrontLink:
    """The front's end. Writing never waits: the pool limits what is sent ahead."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter  # used only to close its end
    vectors: Vectors

    @classmethod
    async def over(cls, sock: socket.socket) -> FrontLink:
        sock.setblocking(False)
        vectors = Vectors(sock)
        with ExitStack() as undo:
            undo.callback(vectors.close)
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=1 << 20)
            undo.pop_all()
        return cls(reader, writer, vectors)

    def send(self, message: replica_pb2.ToReplica, payloads: Iterable[bytes] = ()) -> None:
        body = message.SerializeToString()
        self.vectors.write((LENGTH.pack(len(body)), body, *payloads))

    async def receive(self) -> replica_pb2.FromReplica | None:
        """The next message; None when the replica is gone."""
        try:
            (size,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            if size > LONGEST_FRAME:
                raise LinkBroken(f"a frame of {size} bytes")
            message = replica_pb2.FromReplica()
            message.ParseFromString(await self.reader.readexactly(size))
            return message
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self.vectors.close()
        self.writer.close()


class ReplicaLink:
    """The replica's end. `send` may be called from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: replica_pb2.FromReplica) -> None:
        body = message.SerializeToString()
        with self._lock:
            self._sock.sendall(LENGTH.pack(len(body)) + body)

    def receive(self) -> tuple[replica_pb2.ToReplica, list[bytes]]:
        """The next message and its payloads. Raises EOFError when the front is gone."""
        (size,) = LENGTH.unpack(self._read(LENGTH.size))
        message = replica_pb2.ToReplica()
        message.ParseFromString(self._read(size))
        return message, [self._read(item.example_bytes) for item in message.work.items]

    def _read(self, size: int) -> bytes:
        """Read with one call and one copy, however large."""
        data = self._sock.recv(size, socket.MSG_WAITALL) if size else b""
        while len(data) < size:  # a signal interrupted the read
            more = self._sock.recv(size - len(data), socket.MSG_WAITALL)
            if not more:
                raise EOFError
            data += more
        return data


# Takes the content of one kind of message, and its payloads.
Receiver = Callable[[Any, list[bytes]], None]


class Inbox:
    """Reads the front's messages, from before the bundle is loaded until the process ends, and
    passes each to the receiver of its kind."""

    def __init__(self, link: ReplicaLink) -> None:
        self._link = link
        self.receivers: Mapping[str, Receiver] = {}  # set once the bundle is loaded

    def read(self) -> None:
        try:
            while True:
                message, payloads = self._link.receive()
                kind = message.WhichOneof("message") or ""
                if kind == "stop":
                    break
                if kind not in self.receivers:
                    raise AssertionError(f"{kind} before hello; this is a bug")
                self.receivers[kind](getattr(message, kind), payloads)
        except (EOFError, ConnectionError):
            pass
        os._exit(0)  # whatever the other threads do: the front is gone, or has ended this replica


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends without a name in the file system: no other process can connect."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    return ends


def work_batch(works: Iterable[Work], now: float) -> replica_pb2.ToReplica:
    """The message for these rows; their payloads are sent after it."""
    message = replica_pb2.ToReplica()
    for work in works:
        item = message.work.items.add()
        item.id = work.id
        item.example_bytes = len(work.example)
        item.task = work.task
        item.labels.extend(work.labels)
        item.want_embedding = work.want_embedding
        item.max_new_tokens = work.max_new_tokens
        item.refuse_truncation = work.refuse_truncation
        if work.deadline is not None:
            item.expires_in_s = max(work.deadline - now, 1e-6)
    return message


def cancel(ids: Sequence[str]) -> replica_pb2.ToReplica:
    return replica_pb2.ToReplica(cancel=replica_pb2.Cancel(ids=ids))


def probe(number: int, golden: bool, mixes: Sequence[str]) -> replica_pb2.ToReplica:
    return replica_pb2.ToReplica(probe=replica_pb2.Probe(id=number, golden=golden, mixes=mixes))


def verify(number: int, disk: bool) -> replica_pb2.ToReplica:
    return replica_pb2.ToReplica(verify=replica_pb2.Verify(id=number, disk=disk))


def changed(looked: replica_pb2.Looked) -> tuple[IntegrityChange, ...]:
    return tuple(
        IntegrityChange(item.kind, item.name, item.message, item.affects_answers_now)
        for item in looked.changed
    )


def stop() -> replica_pb2.ToReplica:
    return replica_pb2.ToReplica(stop=replica_pb2.Stop())


def facts(hello: replica_pb2.Hello) -> Facts:
    return Facts(
        stamp=hello.stamp_hex,
        stamp_name=hello.stamp_name,
        dirty=hello.dirty,
        stamp_parts=dict(hello.stamp_parts),
        stamp_detail=dict(hello.stamp_detail),
        labels=tuple(hello.labels),
        features=tuple(
            FeatureSpec(f.name, f.modality, f.kind, f.unit, tuple(f.categories))
            for f in hello.features
        ),
        embedding_dimensions=hello.embedding_dimensions,
        card=hello.card,
        env=dict(hello.env),
        reasons=dict(hello.reasons),
        limits=tuple((limit.name, limit.value, limit.unit) for limit in hello.limits),
        bundle_path=hello.bundle_path,
        signed_by=hello.signed_by,
    )


def timing(message: inference_pb2.Timing, total_ms: float) -> Timing:
    """Timing of a row. All time outside the stages is waiting: in the queue, for the decoder, for
    the forward. So the stages of an answer always add up to its total."""
    stages = (message.decode_ms, message.preprocess_ms, message.forward_ms, message.post_ms)
    return Timing(max(0.0, total_ms - sum(stages)), *stages, total_ms)


def fault(message: inference_pb2.Fault) -> Fault:
    return Fault(message.code, message.field, message.reason, message.message)


def outcome(
    done: replica_pb2.Done, total_ms: float, replica: int, together: tuple[str, ...]
) -> Outcome:
    """`together`: the ids of all rows of its forward, this one included."""
    failed = done.WhichOneof("outcome") == "fault"
    return Outcome(
        prediction_id=done.id,
        answer=None if failed else answer(done.prediction, done.features),
        fault=fault(done.fault) if failed else None,
        timing=timing(done.timing, total_ms),
        batch_size=done.batch_size,
        stamp=done.stamp_hex,
        replica=replica,
        batch_mates=tuple(other for other in together if other != done.id),
        mix="+".join(done.modality_mix),
        parts_used=parts_used(done.parts_used),
    )


def parts_used(messages: Iterable[inference_pb2.PartUsed]) -> tuple[PartUsed, ...]:
    return tuple(
        PartUsed(**{name: getattr(message, name) for name in PART_USED_FIELDS})
        for message in messages
    )


def answer(prediction: inference_pb2.Prediction, features: bytes) -> Answer:
    return Answer(
        label=prediction.label,
        scores=tuple(
            LabelScore(score.label, score.probability, score.log_prob)
            for score in prediction.scores
        ),
        embedding=prediction.embedding.values,
        features=features,
        **outputs_of(prediction),
    )


def generated(token: replica_pb2.Token, total_ms: float, replica: int) -> Outcome:
    failed = token.HasField("fault")
    return Outcome(
        prediction_id=token.id,
        answer=None if failed else answer(token.prediction, token.features),
        fault=fault(token.fault) if failed else None,
        timing=timing(token.timing, total_ms),
        batch_size=1,
        stamp=token.stamp_hex,
        replica=replica,
        parts_used=parts_used(token.parts_used),
    )


def evidence(mix: replica_pb2.MixProbe, at: float) -> Evidence:
    """The evidence from a message; the fields have the same names."""
    named = {field.name: getattr(mix, field.name) for field in mix.DESCRIPTOR.fields}
    return Evidence(**named, at=at, source="probe")
