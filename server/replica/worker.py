"""The life of a replica process, for any model: load, send hello, answer until the end.

It ends when the front is gone, on a stop message, or on an error after which results cannot be
trusted.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proto import replica_pb2
from server import host
from server.ops import event_log
from server.replica.batching import Budget
from server.replica.decoder_output import limit_native_output
from server.replica.executor import Executor
from server.replica.integrity_check import IntegrityCheck, IntegrityWatch
from server.replica.link import HEARTBEAT_S, Inbox, ReplicaLink
from server.replica.model import Model
from server.replica.work_queue import Crew

MEMORY_EVERY = 5  # heartbeats; measuring shared memory costs 3 ms
EXIT_REFUSED = 78  # EX_CONFIG of sysexits.h

# A step of loading, and its progress.
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of any replica, from its command line."""

    fd: int
    index: int
    decoders: int
    generations: int
    look_s: float = 60.0  # time between its checks of itself
    log_format: str = "text"
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Loaded:
    model: Model
    hello: replica_pb2.Hello
    budget: Budget
    shared_cores: bool  # decoding and the forward run on the same cores
    figures: Callable[[], dict[str, Any]]  # fields of Load about the device and the decoders
    watch: IntegrityWatch  # compares this process with what it loaded


class LoadRefused(Exception):
    """This replica cannot serve: `check` as in server.errors.PoolRefused."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check
        self.message = message


def serve(settings: WorkerSettings, load: Callable[[Progress], Loaded]) -> None:
    """Never returns. `load` may raise LoadRefused."""
    # Ctrl-C in a terminal and a service manager's SIGTERM are for the front to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    decoding: set[str] = set()
    native = limit_native_output(lambda: list(decoding))
    if sys.stderr is not None:
        faulthandler.enable(sys.stderr)
    component = f"replica {settings.index}"
    event_log.install(sys.stdout, settings.log_format, settings.log_level, component)
    link = ReplicaLink(socket.socket(fileno=settings.fd))
    inbox = Inbox(link)
    threading.Thread(target=inbox.read, daemon=True).start()
    began = time.monotonic()
    loaded = _load(link, load)
    crew = Crew(settings.decoders, loaded.shared_cores)
    executor = Executor(
        loaded.model,
        link.send,
        loaded.budget,
        crew,
        settings.generations,
        decoding=decoding,
    )
    check = IntegrityCheck(loaded.watch, link.send, settings.look_s)
    inbox.receivers = {
        "work": executor.submit,
        "cancel": lambda cancel, _: executor.cancel(cancel.ids),
        "probe": lambda probe, _: executor.probe(probe),
        "verify": lambda verify, _: check.ask(verify),
    }
    executor.start()
    _introduce(link, loaded, time.monotonic() - began)
    threading.Thread(target=check.run, name="self-check", daemon=True).start()
    for beat in itertools.count():
        figures = executor.load() | loaded.figures() | {"decoder_lines": native.lines}
        state = replica_pb2.Load(rss_bytes=host.rss_bytes(), **figures)
        if beat % MEMORY_EVERY == 0:
            use = host.memory_use()
            state.private_bytes, state.shared_bytes = use.private, use.shared
        try:
            link.send(replica_pb2.FromReplica(load=state))
        except ConnectionError:
            os._exit(0)
        time.sleep(HEARTBEAT_S)


def _load(link: ReplicaLink, load: Callable[[Progress], Loaded]) -> Loaded:
    def progress(step: str, fraction: float) -> None:
        loading = replica_pb2.Loading(step=step, fraction=fraction)
        link.send(replica_pb2.FromReplica(loading=loading))

    try:
        return load(progress)
    except LoadRefused as refusal:
        fatal = replica_pb2.Fatal(code=refusal.check, message=refusal.message)
        link.send(replica_pb2.FromReplica(fatal=fatal))
        os._exit(EXIT_REFUSED)


def _introduce(link: ReplicaLink, loaded: Loaded, load_s: float) -> None:
    loaded.hello.load_s = load_s
    loaded.hello.max_batch_cost = loaded.budget.tokens
    link.send(replica_pb2.FromReplica(hello=loaded.hello))
    rows, tokens = loaded.budget.room
    room = replica_pb2.Room(rows=rows, cost=tokens)
    link.send(replica_pb2.FromReplica(room=room))
