"""`server replay`: answer a stored payload again and show what differs."""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from proto import observe_pb2 as pb
from server.api.observe_messages import prediction_message
from server.commands.client import CommandConnection
from server.commands.connection import (
    FAILED,
    OK,
    REFUSED_INPUT,
    add_connection,
    connect,
    run_to_end,
)
from server.commands.output.command_line import CommandLine
from server.commands.output.status_report import printable, table
from server.config import ServerConfig
from server.errors import PoolRefused
from server.rehearsal.replay import Line, ReplaySide, Value, compare, named
from server.rehearsal.rerun import TASKS, by_bundle, by_server, by_stamp, schema_of
from server.telemetry.outputs import outputs_of
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import FeatureRow
from server.telemetry.stamps.feedback import made_at
from server.telemetry.store import payload_keys
from server.telemetry.store.database import NAME, require_current
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.payload_keys import NO_KEYS, PayloadKeys
from server.telemetry.store.reader import Reader

TIMEOUT_S = 30.0
WRITTEN_AFTER_S = 1.5  # longer than the writer keeps rows before it writes them
ABOUT = """The payload is read from the running server, or with --data from the files of a server
that may be stopped. The running server answers it (as one more request), with --stamp a bundle that
it has loaded (uncounted), or with --bundle a replica of that bundle that is started for this.

exit codes: 0 answered, 2 wrong usage, 3 no such payload, 4 server not ready or not
reached, 78 bundle refused, 1 anything else"""
BUNDLE_REFUSED = 78


class NoPayload(Exception):
    """The prediction is unknown, or cannot be answered again."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A past prediction: its row, its payload, the features of its stamp."""

    row: pb.PredictionRow
    example: bytes
    schema: list[FeatureSpec]


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server replay",
        description="Answer a stored payload again and show both answers side by side.",
        epilog=ABOUT,
    )
    add = parser.add_argument
    add("id", metavar="ID", help="prediction id")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="read the payload from this --data directory of a server",
    )
    add(
        "--payload-key",
        type=Path,
        metavar="FILE",
        help="with --data: the keys that its server encrypts payloads with",
    )
    by = parser.add_mutually_exclusive_group().add_argument
    by("--bundle", type=Path, metavar="DIR", help="answer with this bundle")
    by(
        "--stamp",
        default="",
        metavar="STAMP",
        help="answer with this bundle, which the running server has loaded; role admin",
    )
    add("--device", default="auto", metavar="D", help="where --bundle runs: auto, cpu, cuda:0")
    add("--allow-dirty", action="store_true", help="also when the code differs from the manifest")
    add("--json", action="store_true", help="print one JSON object")
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    try:
        return run_to_end(_replay(arguments), arguments.server)
    except NoPayload as error:
        print(error, file=sys.stderr)
        return REFUSED_INPUT
    except PoolRefused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return BUNDLE_REFUSED
    except (OSError, sqlite3.Error) as error:
        print(f"cannot read {arguments.data}: {error}", file=sys.stderr)
        return FAILED


async def _replay(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        if arguments.data is not None:
            keys = _keys(arguments.payload_key)
            kept = await asyncio.to_thread(from_data, arguments.data, arguments.id, keys)
        else:
            kept = await _from_server(client, arguments.id)
        if kept.row.task not in TASKS:
            raise NoPayload(f"{arguments.id}: generated texts are not stored, nothing to compare")
        if arguments.stamp:
            now = await by_stamp(client, arguments.id, arguments.stamp)
        elif arguments.bundle is not None:
            config = replace(
                ServerConfig(), device=arguments.device, allow_dirty=arguments.allow_dirty
            )
            now = await by_bundle(arguments.bundle, config, kept.example, kept.row.task)
        else:
            now = await by_server(client, kept.example, kept.row.task)
    before = replace(side_of(kept), features={}) if arguments.stamp else side_of(kept)
    lines = compare(before, now)
    print(
        json.dumps(_plain(kept.row, now, lines)) if arguments.json else _text(kept.row, now, lines)
    )
    return OK


def _keys(path: Path | None) -> PayloadKeys:
    """The keys in the file. Raises NoPayload."""
    if path is None:
        return NO_KEYS
    try:
        return payload_keys.read(path)
    except (OSError, payload_keys.KeyFileInvalid) as error:
        raise NoPayload(f"--payload-key: {error}") from None


async def _from_server(client: CommandConnection, identifier: str) -> Kept:
    request = pb.SamplesRequest(prediction_ids=[identifier], with_payload=True)
    samples = partial(client.unary, client.observe.Samples, request, TIMEOUT_S)
    found = (await samples()).samples
    if not found:  # the row of a very recent prediction may not be in the store yet
        await asyncio.sleep(WRITTEN_AFTER_S)
        found = (await samples()).samples
    if not found:
        raise NoPayload(_unknown("the server", identifier))
    if found[0].no_example:
        raise NoPayload(f"{identifier}: {found[0].no_example}")
    return _kept(found[0].row, found[0].example, await schema_of(client, found[0].row.stamp))


def from_data(folder: Path, identifier: str, keys: PayloadKeys = NO_KEYS) -> Kept:
    """The prediction from the folder of --data. Raises NoPayload, sqlite3.Error."""
    require_current(folder / NAME)
    reader = Reader(lambda: folder / NAME, keys)
    found = reader.by_id([identifier], payload=True)
    if not found:
        raise NoPayload(_unknown(str(folder), identifier))
    if found[0].locked:
        raise NoPayload(f"{identifier}: {found[0].locked}")
    schema = [
        FeatureSpec(row.name, row.modality, row.kind, row.unit, row.categories)
        for row in reader.history(TimeSpan(0.0, 0.0), ("feature",))
        if isinstance(row, FeatureRow) and row.stamp == found[0].record.stamp
    ]
    return _kept(prediction_message(found[0]), found[0].example, schema)


def _unknown(where: str, identifier: str) -> str:
    """The message for an unknown id. An id contains its time, so it may just be too old."""
    made = made_at(identifier)
    if made is None or made > 4e9:
        return f"{where} knows no prediction {printable(identifier)}, which is not a prediction id"
    at = datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{where} knows no prediction {identifier}: made {at}, it is older than --keep-days, or of"
        " another server"
    )


def _kept(row: pb.PredictionRow, example: bytes, schema: list[FeatureSpec]) -> Kept:
    if not example:
        raise NoPayload(
            f"the payload of {row.prediction_id} was not stored: --sample-share sets how many are"
        )
    return Kept(row, example, schema)


def side_of(kept: Kept) -> ReplaySide:
    row = kept.row
    if row.error:
        return ReplaySide(row.stamp, "", error="/".join(row.error.split("/")[:2]))
    return ReplaySide(
        row.stamp,
        "",
        row.label,
        outputs_of(row),
        features=named(list(row.features), kept.schema),
    )


def _plain(row: pb.PredictionRow, now: ReplaySide, lines: Sequence[Line]) -> dict[str, object]:
    return {
        "prediction_id": row.prediction_id,
        "at_unix_ms": row.at_unix_ms,
        "same": not _different(lines),
        "differs": [line.name for line in lines if line.differs],
        "stamp_name": now.stamp_name,
        "scores": dict(now.scores),
        "tolerance": now.tolerance,
        "lines": [asdict(line) for line in lines],
    }


def _different(lines: Sequence[Line]) -> list[Line]:
    """The differences besides the stamp: another stamp alone is not another answer."""
    return [line for line in lines if line.differs and line.name != "stamp"]


def _text(row: pb.PredictionRow, now: ReplaySide, lines: Sequence[Line]) -> str:
    at = datetime.fromtimestamp(row.at_unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    tags = printable(" ".join(f"{name}={value}" for name, value in sorted(row.slices.items())))
    rows = [(line.name, _shown(line.kept), _shown(line.now), _mark(line)) for line in lines]
    scores = "  ".join(f"{printable(label)} {score:.3f}" for label, score in now.scores.items())
    count = len(_different(lines))
    verdict = f"{count} of {len(lines) - 1} differ" if count else "the same answer"
    return "\n".join(
        part
        for part in (
            f"{row.prediction_id}  {at}  {row.mix}  {printable(row.client)}  {tags}".rstrip(),
            "",
            table(("", "kept", "now", ""), rows),
            "",
            f"  scores now  {scores}" if scores else "",
            f"  answered by {now.stamp_name or now.stamp}: {verdict} (numbers within "
            f"{now.tolerance:g}, the golden tolerance)",
        )
    )


def _mark(line: Line) -> str:
    if line.near_tie:
        return "near tie"
    return "differs" if line.differs else ""


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int | float):
        return f"{np.float32(value):.5g}"
    return printable(value if len(value) < 64 else value[:12])
