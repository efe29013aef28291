"""`server rollback`: back to the bundle that was served before."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from server.commands.connection import OK, add_connection, connect, run_to_end


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server rollback",
        description="Serve the bundle before again, at once: it is still warm.",
        epilog="exit codes: 0 it serves, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="for the history")
    add_connection(parser)
    return parser


def run(words: Sequence[str]) -> int:
    arguments = parser().parse_args(words)
    return run_to_end(_roll_back(arguments), arguments.server)


async def _roll_back(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        done = await client.roll_back(arguments.reason)
    print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
