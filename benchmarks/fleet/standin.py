"""A replica that is a task of the front's process: everything but the model is real.

It sends and receives the frames of proto/replica.proto over the socket that a replica process would
have, so pool, dispatcher, readiness and heartbeats are those of the server. A hundred servers with
twenty replicas each would be 2,000 processes; they are 2,000 tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from proto import replica_pb2 as pb
from server.pool.forks import ReplicaProcess
from server.replica.link import HEARTBEAT_S, LENGTH

MIXES = ("image", "text")
LABELS = ("run on", "watch", "stop line")
FORWARD_MS = 8.0
# Above the kernel's largest pid: such a pid never exists, and nothing is signalled.
_FIRST_PID = 1 << 23
_numbers = itertools.count(_FIRST_PID)


class StandInProcess:
    """Matches server.pool.forks.ReplicaProcess."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.pid = next(_numbers)
        self.returncode: int | None = None
        self._task = task

    def kill(self) -> None:
        self._task.cancel()

    async def wait(self) -> int | None:
        await asyncio.wait([self._task])
        self.returncode = 0
        return 0


def standin_spawn(stamp: str) -> Callable[[int, socket.socket], Awaitable[ReplicaProcess]]:
    async def spawn(index: int, end: socket.socket) -> ReplicaProcess:
        own = end.dup()
        end.close()
        own.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=own)
        return StandInProcess(asyncio.create_task(_live(reader, writer, stamp, index)))

    return spawn


async def _live(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stamp: str, index: int
) -> None:
    def send(**content: Any) -> None:
        body = pb.FromReplica(**content).SerializeToString()
        writer.write(LENGTH.pack(len(body)) + body)

    send(hello=_hello(stamp, index))
    send(room=pb.Room(rows=16, cost=1 << 16))
    beating = asyncio.create_task(_beat(send))
    try:
        while True:
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            message = pb.ToReplica.FromString(await reader.readexactly(size))
            for item in message.work.items:
                await reader.readexactly(item.example_bytes)
            kind = message.WhichOneof("message")
            if kind == "stop":
                return
            if kind == "work":
                ids = [item.id for item in message.work.items]
                send(begun=pb.Begun(ids=ids))
                await asyncio.sleep(FORWARD_MS / 1e3)
                send(done_batch=pb.DoneBatch(items=[_done(one, stamp, len(ids)) for one in ids]))
            elif kind == "probe":
                mixes = [_probe(mix) for mix in message.probe.mixes or MIXES]
                send(probed=pb.Probed(id=message.probe.id, ok=True, mixes=mixes))
            elif kind == "verify":
                send(looked=pb.Looked(verify_id=message.verify.id))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        beating.cancel()
        writer.close()


async def _beat(send: Callable[..., None]) -> None:
    while True:
        send(load=pb.Load(rss_bytes=400 << 20, private_bytes=80 << 20, shared_bytes=20 << 20))
        await asyncio.sleep(HEARTBEAT_S)


def _hello(stamp: str, index: int) -> pb.Hello:
    hello = pb.Hello(
        stamp_hex=stamp,
        stamp_name=f"standin+{stamp[:12]}",
        labels=LABELS,
        device=f"cuda:{index % 8}",
        env={"device": "stand-in", "dtype": "bfloat16"},
        max_batch_cost=1 << 16,
    )
    for number in range(12):
        hello.features.add(name=f"f{number}", modality="text", kind="numeric", unit="1")
    return hello


def _done(row: str, stamp: str, rows: int) -> pb.Done:
    done = pb.Done(id=row, stamp_hex=stamp, batch_size=rows, modality_mix=["text"])
    done.features = np.arange(12, dtype="<f4").tobytes()
    done.timing.forward_ms = FORWARD_MS
    done.prediction.label, done.prediction.confidence = LABELS[0], 0.9
    for label, probability in zip(LABELS, (0.9, 0.06, 0.04), strict=True):
        done.prediction.scores.add(label=label, probability=probability)
    return done


def _probe(mix: str) -> pb.MixProbe:
    return pb.MixProbe(
        mix=mix, ok=True, p50_ms=8.0, max_ms=9.0, limit_ms=40.0, runs=3, tolerance=0.1
    )
