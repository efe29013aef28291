"""The screenshots of the documentation, taken of a real window on a simulated fleet:
`python docs/screenshots/take.py [FOLDER] [--only NAME …]`. Needs a display;
`xvfb-run -s "-screen 0 3840x2160x24"` is one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.fleet_story import FLEET  # noqa: E402
from tests.support.observe_stand_in import Fleet, StandIn  # noqa: E402

WITHIN_S = 400.0


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    more: tuple[str, ...] = ()
    theme: str = "dark"
    size: str = "1600x960"
    scale: int = 1


PICTURES = (
    Picture("overview-dark"),
    Picture("overview-light", theme="light"),
    Picture("overview-contrast", theme="contrast"),
    Picture("overview-small", size="1280x800"),
    Picture("overview-4k", size="1920x1080", scale=2),
    Picture("predictions", ("--filter", "kept site=b mix=audio+image+text")),
    Picture("quality", ("--panel", "quality")),
    Picture("alerts", ("--panel", "alerts")),
    Picture("offline", ("--offline",)),
)


def take(folder: Path, only: list[str]) -> None:
    """One cache for all pictures: the first console fills it, the last shows it offline."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept, Fleet([StandIn(w) for w in FLEET]) as fleet:
        cache = Path(kept) / "cache.db"
        for number, picture in enumerate(p for p in PICTURES if not only or p.name in only):
            if number == 1:
                fleet.kill(len(FLEET) - 1)  # one server is gone from the second picture on
            file = folder / f"{picture.name}.png"
            command = [sys.executable, "-m", "console.app.main", *fleet.addresses]
            command += ["--cache", str(cache), "--window", "15m", "--theme", picture.theme]
            command += ["--size", picture.size, "--screenshot", str(file), *picture.more]
            scaled = {**os.environ, "QT_SCALE_FACTOR": str(picture.scale)}
            subprocess.run(command, cwd=ROOT, env=scaled, check=True, timeout=WITHIN_S)
            sys.stdout.write(f"{file}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="+", default=[], choices=[p.name for p in PICTURES])
    options = parser.parse_args()
    take(options.folder, options.only)
