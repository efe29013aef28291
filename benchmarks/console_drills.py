"""Drills of the console on real servers. Something breaks, and within ten seconds the headline must
name the server, the cause and the time, and the incident sheet must contain it. (Drift: ten seconds
after the tick in which the server's alert fires; a canary: after its server has ended it.)

    python -m benchmarks.console_drills [--only quick,canary,camera]

No display is needed. Prints one line for each drill; exits 1 when one failed. `quick` has five:
skew, a replica slowed, a replica stopped, a disk full, a server killed. `canary` needs some minutes
of traffic, and `camera` plays two simulated weeks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import psutil

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication

from benchmarks.canary import BACK
from benchmarks.canary import run as try_canaries
from benchmarks.candidates import candidates
from benchmarks.serve import ROOT, free_port
from console.state.dashboard import Board, View
from tests.support.console_watch import (
    ConsoleWatch,
    console_watch,
    other_preprocessing,
    replicas,
    throttled,
    traffic,
)
from tests.support.patience import patience
from tests.support.running import Program, program
from tests.support.tinybundle import make_bundle

WITHIN_S = 10.0
EMBEDDED = ROOT / "pipelines" / "triage" / "bundle"
ENOUGH_ANSWERS = 400  # until every replica has answered enough rows for the console to compare them
SETTLES_S = 60.0  # time outside a drill: traffic starts, a replica comes back
# Time that the server itself may take to decide (on a quiet machine).
CANARY_S, CAMERA_S = 420.0, 900.0


@dataclass(frozen=True, slots=True)
class Drill:
    """The result of one drill. `seconds` from the fault to the headline; NaN: never."""

    name: str
    seconds: float
    headline: str
    in_sheet: bool

    @property
    def passed(self) -> bool:
        return self.seconds <= patience(WITHIN_S) and self.in_sheet

    def __str__(self) -> str:
        sheet = "and the sheet has it" if self.in_sheet else "and the sheet does NOT have it"
        took = "NEVER" if math.isnan(self.seconds) else f"{self.seconds:.1f} s"
        verdict = "ok    " if self.passed else "FAILED"
        return f"{verdict} {self.name:8} {took}, {sheet}: {self.headline}"


def concluded(name: str, seconds: float, console: ConsoleWatch) -> Drill:
    """The result, with the sentence without its age, which differs by the time the sheet is
    written."""
    headline = console.headline
    sentence = headline.partition(": ")[2].partition(" · ")[0]
    return Drill(name, seconds, headline, bool(sentence) and sentence in unescape(console.sheet()))


@contextlib.contextmanager
def served(folder: Path, bundle: Path, names: Sequence[str]) -> Iterator[dict[str, Program]]:
    """Servers of two replicas each, by name; the third has other preprocessing."""
    other = other_preprocessing(bundle, folder)
    paths = dict(zip(names, (bundle, bundle, other), strict=False))
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                program("--bundle", str(path), "--warm-pool", "2", "--name", name)
            )
            for name, path in paths.items()
        }


def quick(folder: Path, bundle: Path) -> Iterator[Drill]:
    """The drills that share three servers and a console. Each does at least as much harm as the one
    before. The odd server, whose answers are wrong, would outrank the others, so it leaves after
    its own drill."""
    with served(folder, bundle, ("gpu-01", "gpu-02", "gpu-03")) as servers:
        first, second, _ = every = [server.address for server in servers.values()]
        with console_watch(every, folder) as console:
            yield skew(console)
            drained(servers["gpu-03"], console)
            with traffic(second, 0.0, 4) as answered:
                yield disk(servers["gpu-02"], console, answered)
            with traffic(first, 0.01, 4) as answered:
                yield slowed(servers["gpu-01"], console, answered)
                yield stopped(servers["gpu-01"], console)
            yield killed(servers["gpu-01"], console)


def skew(console: ConsoleWatch) -> Drill:
    took = console.shows("gpu-03", "image.min_pixels", "since", within_s=patience(WITHIN_S))
    return concluded("skew", took, console)


def drained(server: Program, console: ConsoleWatch) -> None:
    """Drain a server, as its operator may: this is not a drill."""
    server.process.terminate()
    seen = console.until(
        lambda board: any(line.state == "stopped" for line in board.servers), patience(SETTLES_S)
    )
    assert seen == seen, f"not seen as stopped: {console.headline}"


def slowed(server: Program, console: ConsoleWatch, answered: list[int]) -> Drill:
    console.until(lambda _: answered[0] > ENOUGH_ANSWERS, patience(SETTLES_S))
    with throttled(replicas(server)[1]):
        took = console.shows(
            *("gpu-01", "replica", "its neighbours", "since"), within_s=patience(WITHIN_S)
        )
        return concluded("slowed", took, console)


def stopped(server: Program, console: ConsoleWatch) -> Drill:
    os.kill(replicas(server)[0].pid, signal.SIGSTOP)
    took = console.shows("gpu-01", "no sign of life", "since", within_s=patience(WITHIN_S))
    return concluded("stopped", took, console)


def disk(server: Program, console: ConsoleWatch, answered: list[int]) -> Drill:
    """No file of this server can grow any more, as on a full disk."""
    console.until(lambda _: answered[0] > 50, patience(SETTLES_S))
    files = [file for file in data_of(server).rglob("*") if file.is_file()]
    largest = max(file.stat().st_size for file in files)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest, largest))
    took = console.shows("gpu-02", "telemetry", "since", within_s=patience(WITHIN_S))
    return concluded("disk", took, console)


def data_of(server: Program) -> Path:
    command = psutil.Process(server.process.pid).cmdline()
    return Path(command[command.index("--data") + 1])


def killed(server: Program, console: ConsoleWatch) -> Drill:
    server.process.kill()
    parts = ("CRITICAL", "gpu-01", "nothing listens since")
    return concluded("killed", console.shows(*parts, within_s=patience(WITHIN_S)), console)


def canary(folder: Path, bundle: Path) -> Drill:
    """A candidate that refuses one request in ten; the time counts from the server's rollback."""
    del bundle
    bad = candidates(EMBEDDED, folder / "candidates", ["failing"])["failing"]
    options = argparse.Namespace(repeat=1, share=0.3, only=["failing"])
    with (
        served(folder, EMBEDDED, ("gpu-01",)) as servers,
        console_watch([servers["gpu-01"].address], folder) as console,
    ):
        address = servers["gpu-01"].address
        asked = threading.Thread(
            target=lambda: asyncio.run(try_canaries(address, {"failing": bad}, options)),
            daemon=True,
        )
        asked.start()
        console.until(
            lambda board: any(row.action == BACK for _, row in board.deploys), patience(CANARY_S)
        )
        took = console.shows("gpu-01", "rolled back", "since", within_s=patience(WITHIN_S))
        return concluded("canary", took, console)


def camera(folder: Path, bundle: Path) -> Drill:
    """Two simulated weeks of `make demo`; on day nine a camera darkens."""
    del bundle
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "examples.fortnight", "--listen", address]
    command += ["--requests", "12000", "--pool", "2000", "--data", str(folder / "demo")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as demo:
        try:
            with console_watch([address], folder, View(window_s=600)) as console:
                fired = console.until(_camera_fires, patience(CAMERA_S))
                took = math.nan
                if fired == fired:
                    took = console.shows("demo", "image.brightness", "site=b", "since",
                                        within_s=patience(WITHIN_S))  # fmt: skip
                return concluded("camera", took, console)
        finally:
            demo.send_signal(signal.SIGINT)


def _camera_fires(board: Board) -> bool:
    return any(line.firing and "image.brightness" in line.row.features for line in board.alerts)


def one(drill: Callable[[Path, Path], Drill]) -> Callable[[Path, Path], Iterator[Drill]]:
    return lambda folder, bundle: iter((drill(folder, bundle),))


DRILLS: dict[str, Callable[[Path, Path], Iterator[Drill]]] = {
    "quick": quick,
    "canary": one(canary),
    "camera": one(camera),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Drills of the console on real servers.")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[*DRILLS], metavar="NAMES"
    )
    wanted = parser.parse_args().only
    application = QApplication.instance() or QApplication([])
    done = failed = 0
    with tempfile.TemporaryDirectory() as work:
        bundle = make_bundle(Path(work) / "bundle")
        for name in wanted:
            folder = Path(work) / name
            folder.mkdir()
            for drill in DRILLS[name](folder, bundle):
                done, failed = done + 1, failed + (not drill.passed)
                print(drill, flush=True)
    application.quit()
    print(f"{done} drills, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
