"""Two weeks of a plant in a few minutes: `make demo`.

Starts the server on the embedded bundle with a fast telemetry clock, plays several clients from
three sites and two shifts through the real gRPC port, in bursts, with labels that come late. On day
9 the camera of site b darkens and its microphone gets noisy. Prints each alert when it opens, and
the result at the end. Exits 1 unless there was no alert before day 9, and the later alerts named
the right features and the right site.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from tqdm import tqdm

from examples.plant import CHANGE_DAY, DAY_S, DAYS, FAULTY_SITE, Plant, Traffic
from proto import observe_pb2 as ob
from proto.observe_pb2_grpc import ObserveStub

START = "2026-11-02T00:00+00:00"
START_S = 1793577600.0
SITE = f"site={FAULTY_SITE}"
# The features in which a dark camera and a loose microphone plug must show: noise is bright, loud
# and hides the signal.
DARK = ("image.brightness",)
NOISY = ("audio.centroid_hz", "audio.zero_crossing_rate", "audio.snr_db", "audio.rms_dbfs")
FASTEST_RPS = 100.0
ANSWERS_A_DRAW = 1.2


@dataclass(frozen=True, slots=True)
class Check:
    passed: bool
    sentence: str

    def __str__(self) -> str:
        return f"{'ok      ' if self.passed else 'FAILED  '}{self.sentence}"


def day_of(unix_ms: float) -> float:
    return 1 + (unix_ms / 1000 - START_S) / DAY_S


def fired_ms(alert: ob.AlertRow) -> int:
    """When it first fired, some hours after the first suspicion."""
    steps = (step.at_unix_ms for step in alert.history if step.to_state == "firing")
    return min(steps, default=alert.opened_unix_ms)


def line_of(alert: ob.AlertRow) -> str:
    day = day_of(fired_ms(alert))
    return f"day {day:4.1f}  {alert.severity:8}  {alert.kind:10}  {alert.summary}"


def pace(requests: int, left: int, drawn_rps: float) -> tuple[float, str]:
    """(real seconds for the two weeks, reason). Drawing a request and answering one cost about the
    same; `left` are drawn while the weeks pass, and the clients must keep up with the clock."""
    seconds = requests / min(FASTEST_RPS, drawn_rps * ANSWERS_A_DRAW) + left / drawn_rps
    why = f"{drawn_rps:.0f} requests a second are drawn, {requests / seconds:.0f} will be sent"
    return seconds, why


# ---- the server ------------------------------------------------------------------------------


def start_server(
    data: Path, target: str, speed: float, bundle: Path | None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "server.main", "--warm-pool", "2", "--listen", target]
    command += ["--data", str(data), "--name", "demo", "--simulated-time", f"{START},{speed:g}"]
    command += ["--sample-share", "0.02"]
    command += ["--bundle", str(bundle)] if bundle else []
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def wait_until_ready(server: subprocess.Popen[bytes], target: str) -> None:
    probe = [sys.executable, "-m", "server.main", "probe", "--server", target]
    while subprocess.run(probe, capture_output=True).returncode != 0:
        if server.poll() is not None:
            raise SystemExit("the server did not start; run `make serve` to see why")
        time.sleep(0.5)


async def server_time(target: str) -> float:
    """Unix seconds by the server's simulated clock."""
    async with grpc.aio.insecure_channel(target) as channel:
        event = await ObserveStub(channel).Watch(ob.WatchRequest(once=True)).read()
        return float(event.server_unix_ns / 1e9)


async def print_alerts(target: str) -> None:
    """Prints every alert when it fires, until it is cancelled."""
    reported: set[str] = set()
    async with grpc.aio.insecure_channel(target) as channel:
        async for event in ObserveStub(channel).Watch(ob.WatchRequest()):
            alert = event.alert
            if event.HasField("alert") and alert.state == "firing" and alert.id not in reported:
                reported.add(alert.id)
                tqdm.write(line_of(alert))


async def alerts(target: str) -> list[ob.AlertRow]:
    """Every alert that fired, oldest first, each in its latest state."""
    found: dict[str, ob.AlertRow] = {}
    async with grpc.aio.insecure_channel(target) as channel:
        request = ob.HistoryRequest(kinds=["alert"], to_unix_ms=int(2**52))
        async for event in ObserveStub(channel).History(request):
            if event.HasField("alert"):
                found[event.alert.id] = event.alert
    fired = (alert for alert in found.values() if alert.state != "pending")
    return sorted(fired, key=fired_ms)


async def worst(target: str, measure: str, from_day: float) -> list[ob.SliceRow]:
    begin = int((START_S + (from_day - 1) * DAY_S) * 1000)
    async with grpc.aio.insecure_channel(target) as channel:
        request = ob.SlicesRequest(
            measure=measure, limit=3, from_unix_ms=begin, to_unix_ms=int(2**52)
        )
        return list((await ObserveStub(channel).Slices(request)).slices)


# ---- the verdict -----------------------------------------------------------------------------


def checks(fired: Sequence[ob.AlertRow], slices: Sequence[ob.SliceRow]) -> Iterator[Check]:
    early = [alert for alert in fired if day_of(alert.opened_unix_ms) < CHANGE_DAY]
    yield Check(not early, f"{len(early)} alerts before day {CHANGE_DAY}")
    late = [alert for alert in fired if alert not in early]
    at_site = [alert for alert in late if SITE in alert.slices]
    for what, wanted in (("a dark camera", DARK), ("a noisy microphone", NOISY)):
        hits = [alert for alert in at_site if set(wanted) & set(alert.features)]
        named = [feature for feature in wanted if any(feature in a.features for a in hits)]
        when = f"day {day_of(fired_ms(hits[0])):.1f}, {', '.join(named)}" if hits else "never"
        yield Check(bool(hits), f"an alert at {SITE} names {what}: {when}")
    first = slices[0].expression if slices else "none"
    moved = {feature for alert in late for feature in alert.features if SITE in alert.slices}
    blamed = SITE in first.split() or any(feature in first for feature in moved)
    yield Check(blamed, f"the worst slice by value names {SITE} or what moved there: {first}")


async def run(arguments: argparse.Namespace, data: Path) -> int:
    traffic = Traffic(arguments.pool, arguments.pool // 6)
    traffic.begin()
    seconds, reason = arguments.seconds, "as asked"
    if not seconds:
        seconds, reason = pace(arguments.requests, traffic.left, traffic.rate)
    print(f"two weeks in {seconds:.0f} s ({reason})")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        target = arguments.listen or f"127.0.0.1:{sock.getsockname()[1]}"
    speed = DAYS * DAY_S / seconds
    server = start_server(data, target, speed, arguments.bundle)
    print(f"to watch it: .venv/bin/console {target}", flush=True)
    try:
        wait_until_ready(server, target)
        printing = asyncio.create_task(print_alerts(target))
        plant = Plant(target, speed, seconds)
        elapsed_s = (await server_time(target) - START_S) / speed
        await plant.play(traffic, arguments.requests, elapsed_s)
        await plant.close()
        printing.cancel()
        fired = await alerts(target)
        slices = await worst(target, "value", CHANGE_DAY)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    print(f"\n{plant.sent} requests, {plant.failed} failed, {plant.reported} labels joined")
    print(f"\n{len(fired)} alerts fired:")
    for alert in fired:
        where = f" [{', '.join(alert.slices)}]" if alert.slices else ""
        print(f"{line_of(alert)}{where}")
    print(f"\nworst by value since day {CHANGE_DAY}:")
    for found in slices:
        print(f"  {found.message}")
    print()
    found_all = list(checks(fired, slices))
    print("\n".join(map(str, found_all)))
    return 0 if all(check.passed for check in found_all) else 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Two simulated weeks of a plant, with a fault.")
    parser.add_argument("--requests", type=int, default=24_000, help="of both weeks (24000)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="real time the weeks take (by the machine's speed)",
    )
    parser.add_argument(
        "--pool", type=int, default=6_000, help="different requests to draw from (6000)"
    )
    parser.add_argument("--listen", default="", help="HOST:PORT (a free port of this host)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="another than the embedded one")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("build/demo"),
        help="where its telemetry is kept (build/demo)",
    )
    arguments = parser.parse_args()
    data = arguments.data / time.strftime("%Y%m%d-%H%M%S")
    data.mkdir(parents=True)
    sys.exit(asyncio.run(run(arguments, data)))


if __name__ == "__main__":
    main()
