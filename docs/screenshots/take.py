"""The screenshots of the documentation, taken of a real window on a simulated fleet:
`python docs/screenshots/take.py [FOLDER]`. Needs a display; `xvfb-run -s "-screen 0 3840x2160x24"`
is one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.fleet_story import FLEET  # noqa: E402
from tests.observe_stand_in import Fleet, StandIn  # noqa: E402

# file, panel to start in, theme, size, scale, further arguments
PICTURES = (
    ("overview-dark", "latency", "dark", "1600x960", 1, ()),
    ("overview-light", "latency", "light", "1600x960", 1, ()),
    ("overview-contrast", "latency", "contrast", "1600x960", 1, ()),
    ("overview-small", "latency", "dark", "1280x800", 1, ()),
    ("overview-4k", "latency", "dark", "1920x1080", 2, ()),
    ("predictions", "predictions", "dark", "1600x960", 1, ()),
    ("quality", "quality", "dark", "1600x960", 1, ()),
    ("alerts", "alerts", "dark", "1600x960", 1, ()),
    ("offline", "latency", "dark", "1600x960", 1, ("--offline",)),
)


def take(folder: Path) -> None:
    """One cache for all pictures: the first console fills it, the last shows it offline."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept, Fleet([StandIn(w) for w in FLEET]) as fleet:
        cache = Path(kept) / "cache.db"
        for number, (name, panel, theme, size, scale, more) in enumerate(PICTURES):
            if number == 1:
                fleet.kill(len(FLEET) - 1)  # one server is gone from the second picture on
            command = [
                sys.executable,
                "-m",
                "console.main",
                *fleet.addresses,
                "--cache",
                str(cache),
            ]
            command += ["--panel", panel, "--theme", theme, "--size", size, "--window", "15m"]
            command += ["--screenshot", str(folder / f"{name}.png"), *more]
            scaled = {**os.environ, "QT_SCALE_FACTOR": str(scale)}
            subprocess.run(command, cwd=ROOT, env=scaled, check=True, timeout=120)
            sys.stdout.write(f"{folder / name}.png\n")


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
