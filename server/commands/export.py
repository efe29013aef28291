"""`server export`: write stored predictions to a file for other programs."""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tqdm import tqdm

from server.commands.connection import FAILED, OK, REFUSED_INPUT, USAGE
from server.commands.output.command_line import CommandLine
from server.commands.output.export_table import (
    NoParquet,
    Plain,
    Schemas,
    plain_of,
    schemas_of,
    write_lines,
    write_parquet,
)
from server.config import ServerConfig
from server.telemetry.errors import BadFilter
from server.telemetry.rows import FeatureRow
from server.telemetry.store.database import NAME, require_current
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.reader import Reader
from server.values import expecting

UNITS = {"min": 60.0, "h": 3600.0, "d": 86_400.0}
STANDARD_OUTPUT = "-"
A_MOMENT = "a date, a time or an age such as 24h"
ABOUT = """examples:
  server export --since 7d --format parquet --out week.parquet
  server export --since 2026-11-01 --filter "site=b label!=ok" --out - | head

WHEN is an ISO date or time (UTC unless it names a zone) or an age such as 90min, 24h or 7d.
The server may be running. Payloads are not exported.

exit codes: 0 written, 2 wrong usage or no telemetry in DIR, 3 invalid filter, 1 anything else"""


def moment(text: str, now: float) -> float:
    """Unix seconds. Raises ValueError."""
    age = re.fullmatch(r"(\d+(?:\.\d+)?)(min|h|d)", text)
    if age:
        return now - float(age[1]) * UNITS[age[2]]
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server export",
        description="Write stored predictions, one row each, oldest first.",
        epilog=ABOUT,
    )
    now = time.time()
    at = expecting(partial(moment, now=now), A_MOMENT)
    data = ServerConfig().data
    add = parser.add_argument
    add("--data", type=Path, default=data, metavar="DIR", help=f"a server's --data ({data})")
    add("--since", type=at, required=True, metavar="WHEN", help="first moment")
    add("--until", type=at, default=now, metavar="WHEN", help="end, not included (now)")
    add(
        "--filter",
        default="",
        metavar="LINE",
        help="only matching predictions, e.g. 'site=b conf<0.6'",
    )
    add("--format", choices=("jsonl", "parquet"), default="jsonl", help="output format (jsonl)")
    add("--out", required=True, metavar="FILE", help="output file; - is standard output")
    return parser


def run(argv: Sequence[str]) -> int:
    command = parser()
    arguments = command.parse_args(argv)
    to_screen = arguments.out == STANDARD_OUTPUT
    if to_screen and arguments.format == "parquet":
        command.error("--format parquet needs a file: --out FILE")
    if not to_screen and (not arguments.out or Path(arguments.out).is_dir()):
        command.error(f"--out {arguments.out!r} is not a file name")
    if arguments.until <= arguments.since:
        command.error("--until must be after --since")
    if not (arguments.data / NAME).is_file():
        command.error(f"--data {arguments.data}: there is no {NAME}")
    try:
        return _export(arguments, sys.stdout.isatty() if to_screen else False)
    except BadFilter as error:
        print(f"--filter: {error}", file=sys.stderr)
        return REFUSED_INPUT
    except NoParquet as error:
        print(error, file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"cannot write --out {arguments.out}: {error.strerror or error}", file=sys.stderr)
        return FAILED
    except sqlite3.Error as error:
        print(f"cannot read --data {arguments.data}: {error}", file=sys.stderr)
        return FAILED


def _export(arguments: argparse.Namespace, quiet: bool) -> int:
    require_current(arguments.data / NAME)
    reader = Reader(lambda: arguments.data / NAME)
    features = reader.history(TimeSpan(0.0, 0.0), ("feature",))
    schemas = schemas_of(row for row in features if isinstance(row, FeatureRow))
    found = reader.export(TimeSpan(arguments.since, arguments.until), arguments.filter)
    counted = tqdm(found, unit=" predictions", disable=quiet or not sys.stderr.isatty())
    rows = (plain_of(row, schemas) for row in counted)
    if arguments.out == STANDARD_OUTPUT:
        write_lines(rows, sys.stdout)
        return OK
    out = Path(arguments.out)
    count = _to_file(rows, schemas, arguments.format, out)
    print(f"{count} predictions, {out.stat().st_size / 2**20:.1f} MiB in {out}")
    return OK


def _to_file(rows: Iterable[Plain], schemas: Schemas, form: str, out: Path) -> int:
    """Write to another name until the file is complete, so that no reader sees half a file. A
    device or a pipe is written directly."""
    device = out.exists() and not out.is_file()
    part = out if device else out.with_name(out.name + ".part")
    count = 0

    def counting() -> Iterator[Plain]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    try:
        if form == "parquet":
            write_parquet(counting(), schemas, part)
        else:
            with part.open("w") as file:
                write_lines(counting(), file)
        if not device:
            os.replace(part, out)
    finally:
        if not device:
            part.unlink(missing_ok=True)
    return count
