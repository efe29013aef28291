"""`server rollback`: switch back to the previous bundle."""

from __future__ import annotations

import argparse
import sys

from proto import admin_pb2 as pb
from server.commands.connection import OK, add_connection, add_reason, connect
from server.commands.output.command_line import CommandLine
from server.commands.output.progress_bar import shown
from server.deploy.deployment import COLD
from trefoil import TrefoilError


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server rollback",
        description="Switch back to the previous bundle: at once while it is warm, else after "
        "loading it from the store. While a canary runs, only the canary is ended.",
        epilog="exit codes: 0 rolled back, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument(
        "--canary-only",
        action="store_true",
        help="only end a canary: refused where none runs",
    )
    add_reason(parser)
    add_connection(parser)
    return parser


async def call(arguments: argparse.Namespace) -> int:
    request = pb.RollbackRequest(reason=arguments.reason, canary_only=arguments.canary_only)
    async with connect(arguments) as client:
        try:
            done = await client.unary(client.admin.Rollback, request)
        except TrefoilError as error:
            if error.reason != f"DEPLOY_{COLD.upper()}":
                raise
            print(error.message, file=sys.stderr)
            load = pb.LoadRequest(rollback=True, reason=arguments.reason)
            done = await shown(client.stream(client.admin.Load, load))
    print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
