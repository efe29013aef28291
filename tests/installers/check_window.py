"""The packed console as a window on a real X server, fed by servers outside its root file
system."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from installers.console.contents import PROGRAM, WINDOW_CLASS
from tests.installers.room import USER, Room, display
from tests.support.fleet_story import FLEET
from tests.support.observe_stand_in import Fleet, StandIn
from tests.support.running import program

ROOT = Path(__file__).resolve().parents[2]
SIZE = "1600x960"
GRAB = (
    "import sys; from PySide6.QtGui import QGuiApplication as A; a = A([]);"
    "sys.exit(not A.primaryScreen().grabWindow(0).save(sys.argv[1]))"
)
Rows = list[dict[str, str]]


def passed(sentence: str) -> None:
    print(f"ok: {sentence}", flush=True)


def need(true: object, sentence: str) -> None:
    if not true:
        raise SystemExit(f"check_package.py: {sentence}")


def eventually(found: Callable[[], Rows], sentence: str, seconds: float = 90) -> Rows:
    """What it finds, once it finds something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rows = found()
        if rows:
            return rows
        time.sleep(0.3)
    raise SystemExit(f"check_package.py: {sentence}")


class Screen:
    """Keys pressed and pictures taken as a person would."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = {**os.environ, **environment, "QT_QPA_PLATFORM": "xcb"}

    def tool(self, *keys: str) -> str:
        done = subprocess.run(
            ["xdotool", *keys], env=self._environment, capture_output=True, text=True
        )
        return done.stdout.strip()

    def window(self, title: str, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.tool("search", "--onlyvisible", "--name", title)
            if found:
                return found.splitlines()[0]
            time.sleep(0.1)
        raise SystemExit(f"check_package.py: no window called {title}")

    def picture(self, path: Path) -> None:
        command = [sys.executable, "-c", GRAB, str(path)]
        subprocess.run(command, env=self._environment, check=True, timeout=60)


def real_window(room: Room, out: Path) -> None:
    """One real server and four simulated ones outside; the console hears them on loopback."""
    with (
        program("--warm-pool", "1", "--name", "real-server") as server,
        Fleet([StandIn(who) for who in FLEET[:4]]) as fleet,
        display("1640x1000") as screen,
    ):
        predict(server.address)
        addresses = [server.address, *fleet.addresses]
        began = time.monotonic()
        console = subprocess.Popen(
            room.command(PROGRAM, *addresses, "--size", SIZE, "--window", "15m"),
            env=room.environment(user=True, **screen),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            walk(room, Screen(screen), out, addresses, began)
            need(console.wait(20) == 0, "Ctrl+Q did not end it well")
        finally:
            if console.poll() is None:
                room.kill(console)
            shown = console.communicate()[0]
    need(not shown.strip(), f"it complained: {shown}")
    passed("it ended by Ctrl+Q with exit code 0 and nothing on standard error")


def walk(room: Room, screen: Screen, out: Path, addresses: list[str], began: float) -> None:
    """Keys a person would press; what they lead to is read from the files that E writes."""
    window = screen.window("Trefoil console")
    passed(f"a window after {time.monotonic() - began:.1f} s")
    # What ties the window to the entry in the menu, which tests/console/test_console_package.py
    # compares.
    of_class = screen.tool("search", "--onlyvisible", "--class", f"^{WINDOW_CLASS}$").split()
    need(window in of_class, f"the window is not of the class {WINDOW_CLASS}")

    def press(*keys: str) -> None:
        # No window manager hands the keyboard out here, and a window just shown may refuse it.
        screen.tool("windowfocus", window)
        for key in keys:
            screen.tool("key", key)
            time.sleep(0.5)

    def exported(panel: str, *keys: str) -> Rows:
        press(*keys, "e")
        files = sorted((room.root / f"home/{USER}/trefoil-console").glob(f"{panel}-*.csv"))
        if not files:
            return []
        with files[-1].open() as file:
            return list(csv.DictReader(file))

    def heard() -> Rows:
        rows = exported("fleet", "1")
        known = {row["address"] for row in rows if row["stamp"]}
        time.sleep(0.7)
        return rows if known == set(addresses) else []

    rows = eventually(heard, "the servers are not all heard")
    passed(f"{len(rows)} servers are heard: {', '.join(row['server'] for row in rows)}")
    need("real-server" in {row["server"] for row in rows}, "the real one is not among them")
    time.sleep(3)
    screen.picture(out / "window.png")
    press("3", "j", "b")
    drift = eventually(
        lambda: [row for row in exported("drift") if row["source"] != "server"],
        "no drift was computed for the brushed window",
    )
    need(any(0 <= float(row["p"]) <= 1 for row in drift), "no p value: SciPy did not load")
    screen.picture(out / "brushed.png")
    passed(f"{len(drift)} drift scores were computed inside for a brushed window")
    press("6")
    time.sleep(1.5)
    screen.picture(out / "predictions.png")
    press("ctrl+q")


def predict(address: str) -> None:
    """A few requests with all three kinds of parts."""
    samples = ROOT / "pipelines/triage/samples"
    for text in ("the vibration at the oven went up again", "smell of smoke near the drive"):
        command = [sys.executable, "-m", "server.main", "predict", "--server", address]
        command += ["--text", text, "--image", str(samples / "station.jpg")]
        command += ["--audio", str(samples / "machine.wav"), "--slice", "site=a"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
