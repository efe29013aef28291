"""`server activate`: switch to a loaded bundle, or first give it a share of the sessions."""

from __future__ import annotations

import argparse

from proto import admin_pb2 as pb
from server.api.admin import CANARY_MINUTES
from server.commands.connection import OK, add_connection, add_reason, connect
from server.commands.output.command_line import CommandLine
from server.values import above_zero, expecting


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server activate",
        description="Switch to a loaded bundle. The previous one stays warm for a while. With "
        "--canary a share of the sessions uses it first: a worse bundle is rolled back "
        "automatically, a good one is promoted at the end, and one with too little evidence is "
        "held. Without --canary a running canary of this bundle is promoted at once.",
        epilog="exit codes: 0 active, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument(
        "stamp", metavar="STAMP", help="as printed by `server load`, or a prefix of it"
    )
    add_canary(parser)
    add_reason(parser)
    add_connection(parser)
    return parser


def add_canary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--canary",
        type=expecting(share_of_sessions, "a share between 0 and 1"),
        default=0.0,
        metavar="SHARE",
        help="share of the sessions, e.g. 0.1",
    )
    parser.add_argument(
        "--canary-minutes",
        type=expecting(above_zero),
        default=CANARY_MINUTES,
        metavar="M",
        help=f"duration of the canary ({CANARY_MINUTES:g})",
    )


def share_of_sessions(text: str) -> float:
    found = float(text)
    if not 0 < found < 1:
        raise ValueError
    return found


async def call(arguments: argparse.Namespace) -> int:
    request = pb.ActivateRequest(
        stamp=arguments.stamp,
        canary_share=arguments.canary,
        canary_minutes=arguments.canary_minutes,
        reason=arguments.reason,
    )
    async with connect(arguments) as client:
        done = await client.unary(client.admin.Activate, request)
    print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
