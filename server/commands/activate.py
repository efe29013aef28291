"""`server activate`: serve a loaded bundle from now on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from server.commands.connection import OK, add_connection, connect, run_to_end


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server activate",
        description="Serve a loaded bundle from now on. The one before stays warm for a while.",
        epilog="exit codes: 0 it serves, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("stamp", metavar="STAMP", help="as `server load` printed it, or its start")
    add_connection(parser)
    return parser


def run(words: Sequence[str]) -> int:
    arguments = parser().parse_args(words)
    return run_to_end(_activate(arguments), arguments.server)


async def _activate(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        done = await client.activate(arguments.stamp)
    print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
