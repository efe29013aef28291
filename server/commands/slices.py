"""`server slices`: the slices of traffic where the model does worst."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

from proto import observe_pb2 as pb
from server.commands.connection import OK, add_connection, connect
from server.commands.export import A_MOMENT, moment
from server.commands.output.command_line import CommandLine
from server.commands.output.plain_values import plain
from server.commands.output.status_report import printable
from server.telemetry.store.worst_slices import MEASURES
from server.values import expecting, whole

TIMEOUT_S = 60.0
ABOUT = """examples:
  server slices
  server slices --since 7d --measure value

WHEN is an ISO date or time (UTC unless it names a zone) or an age such as 90min, 24h or 7d.
With fewer than 1,000 labels the search uses the estimate from confidence, and reports that.

exit codes: 0 searched, 2 wrong usage, 4 server not reached, 1 anything else"""


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server slices",
        description="Find the slices of traffic where the model does worst.",
        epilog=ABOUT,
    )
    at = expecting(partial(moment, now=time.time()), A_MOMENT)
    add = parser.add_argument
    add(
        "--since",
        type=at,
        default=at("24h"),
        metavar="WHEN",
        help="search predictions from this time on (24h)",
    )
    add("--measure", choices=MEASURES, default=MEASURES[0], help="what to compare (%(default)s)")
    few = expecting(_shown, "1 to 100")
    add("--limit", type=few, default=10, metavar="N", help="show the N worst (10)")
    add("--json", action="store_true", help="print one JSON object")
    add_connection(parser)
    return parser


def _shown(text: str) -> int:
    number = whole(text)
    if number > 100:  # the server returns no more
        raise ValueError
    return number


async def call(arguments: argparse.Namespace) -> int:
    request = pb.SlicesRequest(
        from_unix_ms=int(max(arguments.since, 0.0) * 1000),
        measure=arguments.measure,
        limit=arguments.limit,
    )
    async with connect(arguments) as client:
        found = await client.unary(client.observe.Slices, request, TIMEOUT_S)
    print(json.dumps(plain(found)) if arguments.json else _text(found))
    return OK


def _text(found: pb.SlicesResponse) -> str:
    searched = f"{found.rows_searched} predictions searched in {found.seconds:.1f} s"
    if not found.slices:
        return f"no slice is significantly worse than the rest ({searched})"
    lines = [f"{at}. {printable(row.message)}" for at, row in enumerate(found.slices, 1)]
    return "\n".join([*lines, "", searched])
