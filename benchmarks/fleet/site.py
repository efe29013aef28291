"""Three servers, their DNS name, and the counts about them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.serve import ROOT

NAME, PORT, RESOLVER = "trefoil.test", 8433, "127.0.0.5"
PROBES = 8480  # port for --http, for a proxy that cannot check health over gRPC
PLACES = {"north": "127.0.0.2", "south": "127.0.0.3", "west": "127.0.0.4"}
TARGET = f"dns:///{NAME}:{PORT}"
SETTLE_S = 13.0  # the client resolves a name every 10 s and checks health every 2 s
AGE_S = 20
READY_S = 900.0  # for a server on a machine with much other work


@dataclass(slots=True)
class Record:
    """The DNS server, and the addresses that NAME has."""

    folder: Path
    addresses: set[str] = field(default_factory=set)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._write()
        flags = f"--no-resolv --no-hosts --local-ttl=1 --listen-address={RESOLVER} --user=root"
        hosts = f"--addn-hosts={self.folder / 'hosts'}"
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
        command += ["--bind-interfaces", f"--local=/{NAME}/", hosts, *flags.split()]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def change(self, *, add: str = "", drop: str = "") -> None:
        self.addresses = (self.addresses | ({add} if add else set())) - {drop}
        self._write()
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def _write(self) -> None:
        lines = [f"{address} {NAME}\n" for address in sorted(self.addresses)]
        # By a rename, as the DNS server may be reading the file for the previous change.
        (self.folder / "hosts.new").write_text("".join(lines))
        (self.folder / "hosts.new").rename(self.folder / "hosts")


@dataclass(slots=True)
class Site:
    """Three servers, their name, and the counts about them."""

    folder: Path
    record: Record
    bundle: Path
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def note(self, what: str, figure: str, kept: bool) -> None:
        self.rows.append((what, figure, kept))
        print(f"{'ok  ' if kept else 'LOST'} {what}: {figure}", flush=True)

    def start(self, name: str, *flags: str, fresh: bool = False, bundle: bool = True) -> None:
        """Without `bundle` the server uses the bundle that its store served last."""
        data = self.folder / name
        if fresh:
            shutil.rmtree(data, ignore_errors=True)
        data.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "server.main", "--listen", f"{PLACES[name]}:{PORT}"]
        command += ["--bundle", str(self.bundle)] if bundle else []
        command += ["--data", str(data), "--name", name, "--http", f"{PLACES[name]}:{PROBES}"]
        command += ["--lame-duck", "5", "--threads", "1", "--connection-age", str(AGE_S), *flags]
        log = open(self.folder / f"{name}.log", "a")
        self.running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)

    async def ready(self, *names: str) -> None:
        for name in names:
            async with grpc.aio.insecure_channel(f"{PLACES[name]}:{PORT}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                began = time.monotonic()
                while not await _serves(check):
                    if time.monotonic() - began > READY_S or self.running[name].poll() is not None:
                        raise SystemExit((self.folder / f"{name}.log").read_text()[-3000:])
                    await asyncio.sleep(0.2)

    async def join(self, *names: str, fresh: bool = False, flags: Sequence[str] = ()) -> None:
        for name in names:
            self.start(name, *flags, fresh=fresh)
        await self.ready(*names)
        for name in names:
            self.record.change(add=PLACES[name])

    async def end(self, name: str, how: signal.Signals) -> None:
        """Its name is removed a second after it ends, as that of a pod is."""
        process = self.running[name]
        process.send_signal(how)
        await asyncio.sleep(1.0)
        self.record.change(drop=PLACES[name])
        await asyncio.to_thread(process.wait)

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


async def _serves(check: Any) -> bool:
    try:
        answer = await check(b"\n\x0dtrefoil.ready", timeout=2)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer == b"\x08\x01")
