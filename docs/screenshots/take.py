"""The screenshots of the documentation, of a real window: `python docs/screenshots/take.py [FOLDER]
[--only NAME …] [--fleet real|simulated] [--seconds 240]`.

`real` starts three servers on the embedded bundle, one of them with other preprocessing, sends them
what the triage data generator draws, slows a replica and ends a server. `simulated` plays the rows
of a larger fleet. Needs no display.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.fleet_story import FLEET  # noqa: E402
from tests.support.observe_stand_in import Fleet, StandIn  # noqa: E402

WITHIN_S = 400.0
EMBEDDED = ROOT / "pipelines" / "triage" / "bundle"
SLO_MS = "400"
COLOURS = 256  # of a picture: a quarter of the bytes


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    more: tuple[str, ...] = ()
    theme: str = "dark"
    size: str = "1600x960"
    scale: int = 1


SIZES = (("", "1600x960", 1), ("-small", "1280x800", 1), ("-1440", "2560x1440", 1),
         ("-4k", "1920x1080", 2))  # fmt: skip
PAGES = {
    "predictions": ("--filter", "kept"),
    "quality": ("--panel", "quality"),
    "alerts": ("--panel", "alerts"),
    "changes": ("--panel", "changes"),
}
PICTURES = (
    *(
        Picture(f"{page}{name}-{theme}", more, theme, size, scale)
        for page, more in {"overview": (), **PAGES}.items()
        for name, size, scale in SIZES
        for theme in ("dark", "light", "contrast")
    ),
    Picture("offline", ("--offline",)),
)


@dataclass(slots=True)
class Running:
    """A fleet to take pictures of; `harm` ends a server."""

    addresses: list[str]
    harm: threading.Event


def after(event: threading.Event, do: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        event.wait()
        do()

    waiter = threading.Thread(target=wait)
    waiter.start()
    return waiter


@contextlib.contextmanager
def simulated(seconds: float) -> Iterator[Running]:
    del seconds  # its past is drawn
    with Fleet([StandIn(who) for who in FLEET]) as fleet:
        over = threading.Event()
        running = Running(list(fleet.addresses), over)
        killer = after(over, lambda: fleet.kill(len(FLEET) - 1))
        try:
            yield running
        finally:
            over.set()
            killer.join()


@contextlib.contextmanager
def real(seconds: float) -> Iterator[Running]:
    from tests.support.console_watch import other_preprocessing, replicas, throttled
    from tests.support.running import program

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        other = other_preprocessing(EMBEDDED, folder)
        bundles = {"gpu-01.lon": EMBEDDED, "gpu-02.lon": EMBEDDED, "gpu-03.fra": other}
        flags = ("--slo-ms", SLO_MS, "--warm-pool", "2", "--sample-share", "0.2")
        servers = [
            stack.enter_context(program("--bundle", str(path), "--name", name, *flags))
            for name, path in bundles.items()
        ]
        addresses = [server.address for server in servers]
        stack.enter_context(sending(addresses))
        time.sleep(seconds)
        stack.enter_context(throttled(replicas(servers[0])[1], 0.3))
        harm = threading.Event()
        running = Running(addresses, harm)
        killer = after(harm, servers[1].process.kill)
        stack.callback(killer.join)
        stack.callback(harm.set)
        yield running


@contextlib.contextmanager
def sending(addresses: list[str]) -> Iterator[None]:
    """Clients with sessions, pauses and feedback, in a thread of their own."""
    import grpc

    from benchmarks.canary import Traffic, flowing
    from examples.plant import draw

    items = [item for seed in range(3) for item in draw((seed, False))]
    over = threading.Event()

    async def one(address: str) -> None:
        with contextlib.suppress(ExceptionGroup):  # its server was ended
            async with grpc.aio.insecure_channel(address) as channel:
                async with flowing(channel, Traffic(items)):
                    await asyncio.to_thread(over.wait)

    async def play() -> None:
        await asyncio.gather(*map(one, addresses))

    thread = threading.Thread(target=lambda: asyncio.run(play()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def take(folder: Path, only: list[str], fleet: str, seconds: float) -> None:
    """One cache for all pictures: the first console fills it, the last shows it offline."""
    folder.mkdir(parents=True, exist_ok=True)
    started = real if fleet == "real" else simulated
    with tempfile.TemporaryDirectory() as kept, started(seconds) as running:
        cache = Path(kept) / "cache.db"
        for number, picture in enumerate(p for p in PICTURES if not only or p.name in only):
            if number == 1:
                running.harm.set()  # one server is gone from the second picture on
            file = folder / f"{'real-' if fleet == 'real' else ''}{picture.name}.png"
            command = [sys.executable, "-m", "console.app.main", *running.addresses]
            command += ["--cache", str(cache), "--window", "5m", "--theme", picture.theme]
            command += ["--size", picture.size, "--screenshot", str(file), *picture.more]
            scaled = {**os.environ, "QT_SCALE_FACTOR": str(picture.scale)}
            subprocess.run(command, cwd=ROOT, env=scaled, check=True, timeout=WITHIN_S)
            smaller(file)
            sys.stdout.write(f"{file} {file.stat().st_size // 1024} KiB\n")
            sys.stdout.flush()


def smaller(file: Path) -> None:
    image = Image.open(file).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="+", default=[], choices=[p.name for p in PICTURES])
    parser.add_argument("--fleet", choices=("real", "simulated"), default="real")
    parser.add_argument("--seconds", type=float, default=240.0, help="traffic before the first")
    options = parser.parse_args()
    take(options.folder, options.only, options.fleet, options.seconds)
