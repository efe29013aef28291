"""More requests than capacity: how many are answered within their deadline, and at what cost.

    python -m benchmarks.overload curve [--rounds 3] [--seconds 6] [--against DIR]
    python -m benchmarks.overload polite [--seconds 60]     256 callers that obey, 2x capacity
    python -m benchmarks.overload soak [--minutes 10]       10x capacity, memory and recovery
    python -m benchmarks.overload order                     which row goes first, simulated

`curve` measures this server, a plain grpc.aio server for each core (support/peer.py) and, if named,
the server of another checkout, in turn within each round. Goodput is answers within the deadline a
second; peak is the goodput of PEAK_CALLERS callers without a deadline. `polite` and `soak` exit
with 1 when their goals are not met.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serve import ROOT, Figures, Worker, cpu_s, plain_servers, serving
from benchmarks.support.sampler import Sampler
from server.pool.admission import Admission
from server.telemetry.outputs import Timing

PEAK_CALLERS = 32
NO_DEADLINE_S = 60.0
CALLERS, DEADLINE_S = 256, 1.0
LOADS = (0.5, 1.0, 2.0, 4.0, 10.0)

# The goals of each load (issue 13).
GOALS = {"back-off": 0.90, "impatient": 0.80, "obedient": 0.90}
MOST_LATE = 0.01  # share of the answers: their 99th percentile is within the deadline
POLITE_LOAD = 2.0
SOAK_LOAD = 10.0
RECOVERY_S, RECOVERED = 5.0, 0.95
# This server cannot limit requests that are being received: half of --max-calls, each of 140 kB.
# There must be no growth: the second half of the flood may use a tenth more than the first.
MOST_FRONT_MIB, MOST_GROWTH = 400.0, 1.1


@dataclass(frozen=True, slots=True)
class System:
    """A server under test: its addresses, and the processes whose CPU time counts."""

    name: str
    targets: list[str]
    front: psutil.Process | None  # None: it has only workers
    servers: tuple[psutil.Process, ...] = ()

    def workers(self) -> Sequence[psutil.Process]:
        return self.servers if self.front is None else self.front.children(recursive=True)

    def cpu_s(self) -> tuple[float, float]:
        """(front, workers)"""
        front = 0.0 if self.front is None else cpu_s(self.front)
        return front, sum(map(cpu_s, self.workers()))


@contextmanager
def our_server(name: str, bundle: str, flags: list[str], root: Path = ROOT) -> Iterator[System]:
    with serving(bundle, os.cpu_count() or 1, flags, root=root) as ours:
        yield System(name, [ours.target], psutil.Process(ours.process.pid))


def measured(flood: Worker, system: System, **command: object) -> Figures:
    """The result of one command, and the CPU time of the counted period."""
    flood.send(targets=system.targets, **command)
    flood.answer()  # counting has begun
    front, workers = system.cpu_s()
    flood.answer()  # counting has ended
    front_after, workers_after = system.cpu_s()
    found = flood.answer()
    return {**found, "front_s": front_after - front, "workers_s": workers_after - workers}


def peak(flood: Worker, system: System, seconds: float) -> Figures:
    return measured(
        flood,
        system,
        callers=PEAK_CALLERS,
        seconds=seconds,
        deadline_s=NO_DEADLINE_S,
        warm_s=0.5,
    )


# ---- the curve -----------------------------------------------------------------------------------

Row = tuple[str, str]  # system, load
Found = dict[Row, list[Figures]]


def curve(arguments: argparse.Namespace) -> bool:
    _about()
    with ExitStack() as running:
        flags = arguments.server_flag
        systems = [running.enter_context(our_server("trefoil", arguments.bundle, flags))]
        if arguments.against:
            other = Path(arguments.against).resolve()
            bundle = str(other / "pipelines/triage/bundle")
            systems.append(running.enter_context(our_server("other", bundle, flags, other)))
        if not arguments.no_plain:
            peers = running.enter_context(plain_servers(arguments.bundle, os.cpu_count() or 1))
            systems.append(System("plain", list(peers), None, tuple(peers.values())))
        flood = running.enter_context(Worker("benchmarks.support.flood"))
        found: Found = defaultdict(list)
        for turn in range(arguments.rounds):
            for system in systems if turn % 2 == 0 else reversed(systems):
                _round(flood, system, arguments, found)
    return _report(found, [system.name for system in systems])


def _round(flood: Worker, system: System, arguments: argparse.Namespace, found: Found) -> None:
    """Peak, every load, peak again, as the machine's other work changes meanwhile."""
    seconds = arguments.seconds
    before = peak(flood, system, seconds)
    measurements = [("peak", before)]
    closed = {"callers": CALLERS, "seconds": seconds, "deadline_s": DEADLINE_S}
    for behaviour in arguments.behaviours:
        figures = measured(flood, system, behaviour=behaviour, **closed)
        measurements.append((f"closed {behaviour}", figures))
    for load in arguments.loads:
        rate = load * before["goodput"]
        figures = measured(flood, system, rate=rate, seconds=seconds, deadline_s=DEADLINE_S)
        measurements.append((f"open {load:g}x", figures))
    after = peak(flood, system, seconds)
    best = statistics.mean((before["goodput"], after["goodput"]))
    good = before["good"] + after["good"]
    front_ms = 1e3 * (before["front_s"] + after["front_s"]) / good
    for load_name, figures in [*measurements, ("peak", after)]:
        answers = max(figures["good"], 1)
        figures |= {
            "share": figures["goodput"] / best,
            "workers_ms": 1e3 * figures["workers_s"] / answers,
            "front_ms": 1e3 * figures["front_s"] / answers,
            "refusal_ms": _refusal_ms(figures, front_ms),
        }
        found[system.name, load_name].append(figures)
        print(f"  {system.name:8} {load_name:16} {_line(figures)}", flush=True)


def _refusal_ms(figures: Figures, answer_ms: float) -> float:
    """CPU of the front for a refusal: the rest, if answers cost as much as at the peak."""
    refusals = figures["refused"] + figures["timeless"] + figures["late"]
    left_ms = 1e3 * figures["front_s"] - figures["good"] * answer_ms
    return max(left_ms, 0.0) / refusals if refusals else 0.0


def _line(figures: Figures) -> str:
    return (
        f"{figures['goodput']:6.1f}/s = {figures['share']:.2f} of peak, "
        f"p50 {figures['p50_ms']:.0f} p99 {figures['p99_ms']:.0f} ms, "
        f"refused {figures['refused']:.0f} timeless {figures['timeless']:.0f} "
        f"late {figures['late']:.0f} other {figures['other']:.0f}; CPU an answer: "
        f"workers {figures['workers_ms']:.1f} front {figures['front_ms']:.2f} ms; "
        f"a refusal {figures['refusal_ms']:.2f} ms, after {figures['refusal_p50_ms']:.0f} ms"
    )


def _report(found: Found, systems: Sequence[str]) -> bool:
    """Medians of the rounds; True when this server met the goals."""
    print(
        "\n| load | system | goodput / peak | p50, p99 of answers ms | CPU an answer: workers, "
        "front ms | CPU a refusal: front ms | refused, without a time, late |"
    )
    print("|---|---|---|---|---|---|---|")
    kept = True
    for load in dict.fromkeys(load for _, load in found):
        for name in systems:
            rows = found[name, load]

            def median(key: str, rows: list[Figures] = rows) -> float:
                return statistics.median(row[key] for row in rows)

            print(
                f"| {load} | {name} | {median('share'):.2f} ({median('goodput'):.0f}/s) | "
                f"{median('p50_ms'):.0f}, {median('p99_ms'):.0f} | {median('workers_ms'):.1f}, "
                f"{median('front_ms'):.2f} | {median('refusal_ms'):.2f} | {median('refused'):.0f}, "
                f"{median('timeless'):.0f}, {median('late'):.0f} |"
            )
            goal = GOALS.get(load.removeprefix("closed "))
            if name == "trefoil" and goal is not None:
                late = median("late") / max(median("good") + median("late"), 1)
                kept = kept and late <= MOST_LATE and median("share") >= goal
    print(f"\nGoals of this server {'kept' if kept else 'NOT KEPT'}: {GOALS}")
    return kept


def _about() -> None:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    cores = os.cpu_count()
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}; load {load}")


# ---- callers that obey ---------------------------------------------------------------------------


def polite(arguments: argparse.Namespace) -> bool:
    """256 callers that together want twice the capacity, and obey the server's retry times."""
    _about()
    with (
        our_server("trefoil", arguments.bundle, arguments.server_flag) as system,
        Worker("benchmarks.support.flood") as flood,
    ):
        best = peak(flood, system, 5.0)
        found = measured(
            flood,
            system,
            callers=CALLERS,
            behaviour="obedient",
            seconds=arguments.seconds,
            deadline_s=DEADLINE_S,
            pace_s=CALLERS / (POLITE_LOAD * best["goodput"]),
        )
    print(
        f"{CALLERS} polite callers, {POLITE_LOAD:g}x of {best['goodput']:.0f}/s, "
        f"{arguments.seconds:g} s: {found['good']:.0f} answered in time "
        f"({found['goodput'] / best['goodput']:.2f} of peak, p99 {found['p99_ms']:.0f} ms), "
        f"{found['refused']:.0f} refused with a time; without a time {found['timeless']:.0f}, "
        f"late {found['late']:.0f}, other {found['other']:.0f}"
    )
    return not (found["timeless"] or found["late"] or found["other"])


# ---- which row goes first ------------------------------------------------------------------------

ORDERS: dict[str, Callable[[float, float], float]] = {
    "first come": lambda came, _due: came,
    "newest": lambda came, _due: -came,
    "shortest deadline": lambda _came, due: due,
}
DEADLINES_S = {"1 s": (1.0,), "0.3, 1, 3 s": (0.3, 1.0, 3.0)}
BATCH, ROW_S, REPLICAS, SIMULATED_S = 8, 0.02, 2, 30.0
TIMING = Timing(forward_ms=1e3 * ROW_S * BATCH)


def simulated(order: str, deadlines_s: Sequence[float], load: float, admits: bool) -> float:
    """Share of the capacity that is answered in time: two replicas, batches of 8, random arrivals,
    a service time that varies by a fifth; with the server's admission or without."""
    rng, key = random.Random(1), ORDERS[order]
    admission, capacity = Admission(), REPLICAS / ROW_S
    times = admission.service_time
    for _ in range(100):
        times.learn("", TIMING, BATCH)
    now, good = 0.0, 0
    waiting: list[tuple[float, float, float, float]] = []  # key, arrival, due time, expected time
    free = [0.0] * REPLICAS
    comes = rng.expovariate(load * capacity)
    while now < SIMULATED_S:
        now = min(comes, min(free)) if waiting else comes
        if now == comes:
            comes += rng.expovariate(load * capacity)
            due = now + rng.choice(deadlines_s)
            expected_s = 0.0
            if admits:
                before_s = sum(one[0] < key(now, due) for one in waiting) * ROW_S
                before_s += sum(max(end - now, 0.0) for end in free)
                expected_s = admission.expected_s("", before_s, REPLICAS) or 0.0
            if expected_s * admission.factor <= due - now:
                waiting.append((key(now, due), now, due, expected_s))
        replica = min(range(REPLICAS), key=free.__getitem__)
        if free[replica] > now:
            continue
        alive = sorted(one for one in waiting if now + ROW_S <= one[2])
        batch, waiting = alive[:BATCH], alive[BATCH:]
        free[replica] = now + len(batch) * ROW_S * rng.lognormvariate(0.0, 0.2)
        for _, came, due, expected_s in batch:
            good += free[replica] <= due
            if admits:
                admission.took(expected_s, free[replica] - came, now)
    return good / (capacity * SIMULATED_S)


def order(_arguments: argparse.Namespace) -> bool:
    print("| deadlines | load | admission | " + " | ".join(ORDERS) + " |")
    print("|---|---|---|---|---|---|")
    for name, deadlines_s in DEADLINES_S.items():
        for load in (1.1, 2.0, 10.0):
            for admits in (True, False):
                shares = (simulated(one, deadlines_s, load, admits) for one in ORDERS)
                cells = " | ".join(f"{share:.2f}" for share in shares)
                print(f"| {name} | {load:g}x | {'yes' if admits else 'no'} | {cells} |", flush=True)
    return True


# ---- soak ----------------------------------------------------------------------------------------


def soak(arguments: argparse.Namespace) -> bool:
    _about()
    with (
        our_server("trefoil", arguments.bundle, arguments.server_flag) as system,
        Worker("benchmarks.support.flood", arguments.bundle) as flood,
    ):
        front = system.front
        assert front is not None
        before = peak(flood, system, 10.0)
        with Sampler(lambda: front.memory_info().rss / 2**20, 1.0) as mib:
            found = measured(
                flood,
                system,
                rate=SOAK_LOAD * before["goodput"],
                seconds=60 * arguments.minutes,
                deadline_s=DEADLINE_S,
            )
        ended = time.monotonic()
        after = measured(
            flood,
            system,
            callers=PEAK_CALLERS,
            seconds=10.0,
            deadline_s=NO_DEADLINE_S,
            warm_s=RECOVERY_S - min(1.0, time.monotonic() - ended),
        )
    middle = max(len(mib.seen) // 2, 1)
    earlier, later = max(mib.seen[:middle]), max(mib.seen[middle:], default=0.0)
    recovered = after["goodput"] / before["goodput"]
    codes = ", ".join(f"{name[5:]} {n:.0f}" for name, n in found.items() if name[:5] == "code ")
    print(
        f"{arguments.minutes:g} minutes at {SOAK_LOAD:g}x of {before['goodput']:.0f}/s: "
        f"{found['goodput']:.0f} answers a second in time "
        f"({found['goodput'] / before['goodput']:.2f} of peak), {found['wrong']:.0f} wrong; "
        f"{codes}; refused without a time {found['timeless']:.0f}, late {found['late']:.0f}, "
        f"never sent {found['unsent']:.0f}"
    )
    print(
        f"front {mib.seen[0]:.0f} MiB before, at most {earlier:.0f} MiB in the first half and "
        f"{later:.0f} in the second (bound {MOST_FRONT_MIB:.0f}); {RECOVERY_S:g} s after the flood "
        f"{after['goodput']:.0f}/s = {recovered:.2f} of peak (goal {RECOVERED})"
    )
    return (
        max(earlier, later) <= MOST_FRONT_MIB
        and later <= MOST_GROWTH * earlier
        and recovered >= RECOVERED
        and not (found["wrong"] or found["other"] or found["timeless"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("proof", choices=("curve", "polite", "soak", "order"))
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--seconds", type=float, help="of each measurement: 6, polite 60")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of soak")
    parser.add_argument("--against", help="another checkout, whose server is measured too")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain servers out")
    parser.add_argument("--loads", type=_numbers, default=LOADS, help="of the open loop: 0.5,2,10")
    parser.add_argument(
        "--behaviours", type=_names, default=tuple(GOALS), help="of the closed loop, with commas"
    )
    parser.add_argument(
        "--server-flag", action="append", default=[], help="passed on to the server, repeatable"
    )
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (60.0 if arguments.proof == "polite" else 6.0)
    proof = {"curve": curve, "polite": polite, "soak": soak, "order": order}[arguments.proof]
    sys.exit(0 if proof(arguments) else 1)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(",") if one)


def _names(text: str) -> tuple[str, ...]:
    return tuple(one for one in text.split(",") if one)


if __name__ == "__main__":
    main()
