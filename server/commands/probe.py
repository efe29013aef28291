"""`server probe`: exit 0 when the server is ready, for scripts and orchestrators."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from proto import observe_pb2 as pb
from server.commands.connection import FAILED, OK, add_connection, connect, error_message
from server.values import above_zero, expecting
from trefoil import TrefoilError

TAKES_TRAFFIC = (pb.READY, pb.DEGRADED)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server probe",
        description="Exit 0 only when the server is ready: its answers are right and fast enough "
        "for every mix of modalities.",
        epilog="exit codes: 0 ready or degraded, 1 not ready or not reached (the reason is on "
        "stderr), 2 wrong usage",
    )
    parser.add_argument(
        "--timeout",
        type=expecting(above_zero),
        default=5.0,
        metavar="S",
        help="give up after this (5)",
    )
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    try:
        reason = asyncio.run(_why_not(arguments))
    except TrefoilError as error:
        reason = error_message(error, arguments.server)
    if reason:
        print(reason, file=sys.stderr)
    return FAILED if reason else OK


async def _why_not(arguments: argparse.Namespace) -> str:
    """ "" when the server takes traffic."""
    async with connect(arguments) as client:
        snapshot = (await client.state(arguments.timeout)).snapshot
    if snapshot.state in TAKES_TRAFFIC:
        return ""
    state = pb.ServerState.Name(snapshot.state)
    return f"{snapshot.server} is {state}: {snapshot.reason or 'no reason given'}"
