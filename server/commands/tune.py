"""`server tune`: finds the pool, threads and batches that serve most on this machine within an
objective."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from proto import inference_pb2 as pb
from server import host
from server.child_process import module_command
from server.commands.connection import FAILED, INTERRUPTED, OK, USAGE
from server.commands.output.command_line import CommandLine
from server.commands.output.status_report import table
from server.commands.settings import settings_of
from server.config import EMBEDDED_BUNDLE, ServerConfig
from server.telemetry.store.database import NAME
from server.telemetry.store.reader import Reader
from server.tuning.grid import DEFAULT, Setting, grid
from server.tuning.objective import ROUNDS, TuningObjective
from server.tuning.process import NotStarted, TunedServer
from server.tuning.search import OPEN_SHARE, Found, Search
from server.values import above_zero, expecting

MOST_PAYLOADS = 200
LAYOUT = "{percentage:3.0f} %|{bar:20}| {desc}"
ABOUT = """Real servers are started and loaded one after the other, on this machine, with the golden
inputs of the bundle or with payloads that a server has kept. The default settings take part to the
end: others are recommended only if they served more in each of five rounds in which the two took
turns. The load generator runs on this machine too, and uses part of its CPU time. Let nothing else
run meanwhile.

examples:
  server tune --slo-p99-ms 200 --write tuned.toml && server --config tuned.toml
  server tune --bundle DIR --payloads trefoil-data --deadline 0.5

exit codes: 0 flags are recommended, 1 nothing meets the objective, or a server does not start,
2 wrong usage"""


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server tune",
        description="Find the pool, threads and batch size that serve most on this machine.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    default = ServerConfig()
    positive = expecting(above_zero)
    add("--bundle", type=Path, default=EMBEDDED_BUNDLE, metavar="DIR", help="what to serve")
    add("--device", default=default.device, metavar="D", help="as for `server` (auto)")
    add(
        "--slo-p99-ms",
        type=positive,
        default=0.0,
        metavar="MS",
        help="the 99th percentile of latency may be at most this (no limit)",
    )
    add(
        "--deadline",
        type=positive,
        default=1.0,
        metavar="S",
        help="deadline of each request; later answers do not count (1)",
    )
    add(
        "--payloads",
        type=Path,
        metavar="DATA",
        help="send payloads kept in this --data directory of a server, not golden inputs",
    )
    add("--minutes", type=positive, default=3.0, metavar="M", help="duration of the search (3)")
    add("--write", type=Path, metavar="FILE", help="write a file for `server --config FILE`")
    return parser


def run(argv: Sequence[str]) -> int:
    command = parser()
    arguments = command.parse_args(argv)
    if not (arguments.bundle / "manifest.json").is_file():
        command.error(f"--bundle {arguments.bundle}: it has no manifest.json")
    try:
        examples = _examples(arguments)
    except (OSError, ValueError, sqlite3.Error) as error:
        print(f"server tune: {error}", file=sys.stderr)
        return USAGE
    objective = TuningObjective(arguments.deadline, arguments.slo_p99_ms)
    try:
        found = asyncio.run(_tuned(arguments, examples, objective))
    except NotStarted as error:
        print(f"server tune: a server did not start:\n{error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return _conclude(arguments, objective, found)


def _conclude(arguments: argparse.Namespace, objective: TuningObjective, found: Found) -> int:
    if not found.table:
        print(
            f"no server was ready within {arguments.minutes:g} minutes; give more --minutes",
            file=sys.stderr,
        )
        return FAILED
    print(report(found, objective))
    if all(trial.best(objective) is None for _, trial in found.table):
        print(f"\nnothing here meets the objective ({objective}): none is recommended")
        return FAILED
    print(f"\n{_flags(arguments, found.chosen)}")
    if arguments.write is not None:
        try:
            write(arguments.write, arguments, found)
        except OSError as error:
            print(f"--write {arguments.write}: {error.strerror or error}", file=sys.stderr)
            return FAILED
        print(f"written to {arguments.write}: server --config {arguments.write}")
    return OK


# ---- what is sent --------------------------------------------------------------------------------


def _examples(arguments: argparse.Namespace) -> list[pb.Example]:
    """The examples to send. Raises OSError, ValueError, sqlite3.Error."""
    if arguments.payloads is None:
        return _golden(arguments.bundle)
    path = arguments.payloads / NAME
    if not path.is_file():
        raise ValueError(f"--payloads {arguments.payloads}: there is no {NAME}")
    rows = Reader(lambda: path).samples(limit=MOST_PAYLOADS, payload=True)
    kept = [pb.Example.FromString(row.example) for row in rows if row.example]
    if not kept:
        raise ValueError(f"--payloads {arguments.payloads}: no payload is kept there")
    return kept


def _golden(bundle: Path) -> list[pb.Example]:
    """The golden inputs, read by a separate process: the command itself never imports the
    pipeline."""
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(
            [
                *module_command("server.replica.main"),
                *("--golden-examples", "--bundle", str(bundle), "--fd", str(out.fileno())),
            ],
            pass_fds=(out.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise ValueError(f"--bundle {bundle}: {done.stderr.strip().splitlines()[-1]}")
        out.seek(0)
        return list(pb.PredictRequest.FromString(out.read()).examples)


# ---- the search ----------------------------------------------------------------------------------


class Clock:
    """The share of the time that has passed, with a progress bar that never moves back."""

    def __init__(self, budget_s: float) -> None:
        self._began = time.monotonic()
        self._budget_s = budget_s
        self._bar = tqdm(total=1.0, bar_format=LAYOUT, disable=not sys.stderr.isatty())

    def spent(self) -> float:
        return (time.monotonic() - self._began) / self._budget_s

    def report(self, what: str) -> None:
        if self._bar.disable:
            print(f"{min(1.0, self.spent()) * 100:3.0f} %  {what}", file=sys.stderr, flush=True)
        self._bar.set_description_str(what)
        self.tick()

    def tick(self) -> None:
        self._bar.update(max(0.0, min(1.0, self.spent()) - self._bar.n))

    async def run(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(0.5)

    def close(self) -> None:
        self._bar.close()


async def _tuned(
    arguments: argparse.Namespace, examples: Sequence[pb.Example], objective: TuningObjective
) -> Found:
    """Raises NotStarted when not even the default configuration starts."""
    clock = Clock(arguments.minutes * 60)
    fixed = ("--bundle", str(arguments.bundle.resolve()), "--device", arguments.device)

    with tempfile.TemporaryDirectory(prefix="tune-") as folder:

        async def start(setting: Setting, limit_s: float) -> TunedServer | None:
            own = Path(tempfile.mkdtemp(dir=folder))
            try:
                return await TunedServer.start(setting, fixed, own, examples, objective, limit_s)
            except NotStarted:
                if setting == DEFAULT:
                    raise
                return None  # out of memory, for example: what has started is compared

        on_gpu = arguments.device != "cpu" and host.has_gpu()
        search = Search(start, objective, arguments.minutes * 60, clock.spent, clock.report)
        ticking = asyncio.create_task(clock.run())
        try:
            return await search.run(grid(host.cores()[0], on_gpu))
        finally:
            ticking.cancel()
            clock.close()


# ---- what was found ------------------------------------------------------------------------------


def report(found: Found, objective: TuningObjective) -> str:
    head = ("pool", "threads", "decoders", "batch rows", "answers/s", "callers", "p50 ms", "p99 ms")
    rows = []
    for setting, trial in found.table:
        load = trial.best(objective)
        shown = load or min(trial.loads, key=lambda one: one.percentile(99))
        values = (setting.threads, setting.decode_threads, setting.max_batch_rows)
        rows.append(
            (
                str(setting.warm_pool),
                *(str(value or "auto") for value in values),
                f"{load.per_second:.1f}" if load else "objective missed",
                str(shown.callers),
                *(_number(shown.percentile(percent)) for percent in (50, 99)),
            )
        )
    lines = [f"most answers a second with {objective}:", table(head, rows)]
    if found.skipped:
        lines.append(f"{found.skipped} more settings were not tried for want of time or memory")
    lines.append(_verdict(found))
    if found.open_loop is not None:
        one = found.open_loop
        lines.append(
            f"with requests at random times, {OPEN_SHARE:g} of that rate: p99 "
            f"{_number(one.percentile(99))} ms of {len(one.latencies_ms)} answers, {one.failed} "
            "not in time"
        )
    return "\n".join(lines)


def _verdict(found: Found) -> str:
    if found.best == DEFAULT:
        return "nothing was measured beside the default, which is kept: give more --minutes"
    if found.chosen != DEFAULT:
        return f"{found.chosen}: {found.comparison}"
    why = "which is within the noise"
    if found.comparison.always_above:
        why = f"which are too few rounds to be sure ({ROUNDS} are needed): give more --minutes"
    return f"the default is kept: the best other, {found.best}, was {found.comparison}, {why}"


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "none"


def _flags(arguments: argparse.Namespace, chosen: Setting) -> str:
    named = f" --bundle {arguments.bundle}" if arguments.bundle != EMBEDDED_BUNDLE else ""
    device = "" if arguments.device == "auto" else f" --device {arguments.device}"
    return f"server{named}{device} {chosen}"


def write(path: Path, arguments: argparse.Namespace, found: Found) -> None:
    """Write the settings. The parser of `server` reads them back before the file takes its place.
    Raises OSError."""
    from server.main import parser as server_parser

    lines = [
        f"# Made by `server tune` on {host.cores()} cores; "
        f"{TuningObjective(arguments.deadline, arguments.slo_p99_ms)}.",
        *(f"# {line}" for line in _verdict(found).splitlines()),
        *(f"{flag[2:]} = {value}" for flag, value in found.chosen.by_flag().items()),
    ]
    if arguments.device != "auto":
        lines.append(f'device = "{arguments.device}"')
    if arguments.slo_p99_ms:
        lines.append(f"slo-ms = {arguments.slo_p99_ms:g}")
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n")
    settings_of(server_parser(), ["--config", str(part)], {})
    os.replace(part, path)
