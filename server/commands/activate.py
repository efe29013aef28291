"""`server activate`: serve a loaded bundle from now on, or with a share of the sessions first."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from proto import admin_pb2 as pb
from server.api.admin import CANARY_MINUTES
from server.commands.connection import OK, add_connection, connect, run_to_end
from server.commands.values import above_zero, expecting


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server activate",
        description="Serve a loaded bundle from now on. The one before stays warm for a while. "
        "With --canary a share of the sessions goes to it first: it is rolled back by itself when "
        "it is worse, promoted at the end when it is not, and held when too little is known. "
        "Without, a running canary of it is promoted at once.",
        epilog="exit codes: 0 it serves, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("stamp", metavar="STAMP", help="as `server load` printed it, or its start")
    parser.add_argument(
        "--canary",
        type=expecting(_part, "a share between 0 and 1"),
        default=0.0,
        metavar="SHARE",
        help="of the sessions, e.g. 0.1",
    )
    parser.add_argument(
        "--canary-minutes",
        type=expecting(above_zero),
        default=CANARY_MINUTES,
        metavar="M",
        help=f"how long it is watched ({CANARY_MINUTES:g})",
    )
    add_connection(parser)
    return parser


def _part(text: str) -> float:
    found = float(text)
    if not 0 < found < 1:
        raise ValueError
    return found


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    return run_to_end(_activate(arguments), arguments.server)


async def _activate(arguments: argparse.Namespace) -> int:
    request = pb.ActivateRequest(
        stamp=arguments.stamp,
        canary_share=arguments.canary,
        canary_minutes=arguments.canary_minutes,
    )
    async with connect(arguments) as client:
        done = await client.activate(request)
    print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
