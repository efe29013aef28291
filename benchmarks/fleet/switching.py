"""The fleet's switch under load, with one server broken on purpose at each step."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import grpc

from benchmarks.fleet.calls import ONCE, failures, load
from benchmarks.fleet.site import PLACES, PORT, SETTLE_S, TARGET, Site
from benchmarks.serve import ROOT
from proto import inference_pb2 as pb
from proto.inference_pb2_grpc import InferenceStub
from tests.support.bundle_shelf import shelf
from trefoil import RetryPolicy


async def fleet(*arguments: str, servers: Sequence[str] = ("file:servers",)) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server.main", "fleet", *arguments, "--servers", *servers,
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
    # Imported late: torch is needed only inside the namespaces.
    from tests.support.tinybundle import make_bundle

    make_bundle(site.folder / "shelf" / "new", seed=1)
    with shelf(site.folder / "shelf") as kept:
        await _switches(site, callers, f"{kept.url}/new")


async def _switches(site: Site, callers: int, new: str) -> None:
    os.environ["FLEET_FOLDER"] = str(site.folder)
    (site.folder / "servers").write_text("".join(f"{a}:{PORT}\n" for a in PLACES.values()))
    old = (await stamps(["north"]))["north"]
    await _broken(site, callers, old, "refuses to load", new, _refusing)
    await _broken(site, callers, old, "dies while loading", new, _dying_while_loading)
    await _broken(site, callers, old, "stops before the switch", new, _stopped)
    await _broken(site, callers, old, "dies at the switch", new, _dying_at_the_switch)
    await _dies_after(site, callers, old, new)
    code, out = await fleet("load", new)
    async with load(callers, TARGET, ONCE) as free:
        code, out = await fleet("activate", _loaded(out))
        await asyncio.sleep(2.0)
    now = await stamps(PLACES)
    site.note(
        "switch: all are well",
        f"exit {code}, {_count(now, old)}, {failures(free)}",
        code == 0 and len({*now.values()}) == 1 and old not in now.values() and not free.failed,
    )
    began = time.monotonic()
    code, _ = await fleet("rollback", "--reason", "benchmark")
    took_s = time.monotonic() - began
    now = await stamps(PLACES)
    whole = code == 0 and {*now.values()} == {old}
    site.note("switch: one command back", f"exit {code}, {_count(now, old)}, {took_s:.1f} s", whole)


async def _dies_after(site: Site, callers: int, old: str, new: str) -> None:
    """West dies once all servers have switched; one command brings all of them back."""
    _, out = await fleet("load", new)
    stamp, expected = _loaded(out), site.folder / "fleet-stamp"
    west = f"{PLACES['west']}:{PORT}"
    async with load(callers, TARGET, RetryPolicy(), stamps=[old, stamp]) as pinned:
        code, _ = await fleet("activate", stamp, "--write-expected", str(expected))
        site.running["west"].send_signal(signal.SIGKILL)
        site.record.change(drop=PLACES["west"])
        await asyncio.sleep(1.0)
        others = [f"{PLACES[name]}:{PORT}" for name in ("north", "south")]
        went = await fleet("rollback", "--write-expected", str(expected), servers=others)
        site.start("west", "--expect-stamp", str(expected), bundle=False)
        await site.ready("west")
        site.record.change(add=PLACES["west"])
        now = await stamps(PLACES)
    site.note(
        "switch: one dies after it, then one command back",
        f"exits {code} and {went[0]}, {_count(now, old)} ({west} returned by --expect-stamp), "
        f"{failures(pinned)}",
        (code, went[0]) == (0, 0) and {*now.values()} == {old} and not pinned.failed,
    )
    await site.end("west", signal.SIGTERM)
    await site.join("west", fresh=True)
    await asyncio.sleep(SETTLE_S)


async def _broken(
    site: Site,
    callers: int,
    old: str,
    label: str,
    new: str,
    broken: Callable[[Site, str, str], Awaitable[int]],
) -> None:
    """Pinned callers never get an answer of another stamp; the surviving servers end with one
    stamp."""
    async with load(callers, TARGET, RetryPolicy(), stamps=old) as pinned:
        code = await broken(site, new, old)
        await asyncio.sleep(1.0)
        now = {name: stamp for name, stamp in (await stamps(PLACES)).items() if stamp}
    mixed = sum(count for stamp, count in pinned.stamps.items() if stamp != old)
    site.note(
        f"switch: one {label}",
        f"exit {code}, {_count(now, old)}, pinned: {mixed} answers mixed, {failures(pinned)}",
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


async def _refusing(site: Site, new: str, old: str) -> int:
    """West trusts one key, which has signed the first bundle and not the new one."""
    await site.end("west", signal.SIGTERM)
    await site.join("west", flags=("--require-signature", str(site.folder / "public.pem")))
    _, out = await fleet("load", new)
    return (await fleet("activate", _loaded(out)))[0]


async def _dying_while_loading(site: Site, new: str, old: str) -> int:
    log = site.folder / "west.log"
    quiet = log.stat().st_size
    task = asyncio.create_task(fleet("load", new))
    while not task.done() and log.stat().st_size == quiet:  # noqa: ASYNC110  a file
        await asyncio.sleep(0.05)
    await site.end("west", signal.SIGKILL)
    code, out = await task
    stamp = _loaded(out)
    return max(code, (await fleet("activate", stamp, "--timeout", "5"))[0])


async def _stopped(site: Site, new: str, old: str) -> int:
    _, out = await fleet("load", new)
    site.running["west"].send_signal(signal.SIGSTOP)
    code, _ = await fleet("activate", _loaded(out), "--timeout", "5")
    return code


async def _dying_at_the_switch(site: Site, new: str, old: str) -> int:
    _, out = await fleet("load", new)
    task = asyncio.create_task(fleet("activate", _loaded(out), "--timeout", "10"))
    while not task.done():
        if any(stamp not in ("", old) for stamp in (await stamps(("north", "south"))).values()):
            break
    os.kill(site.running["west"].pid, signal.SIGKILL)
    code, _ = await task
    return code
