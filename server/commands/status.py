"""`server status`: what a server says of itself, whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from server.commands.connection import OK, add_connection, connect, run_to_end
from server.commands.plain import plain
from server.commands.report import report

TIMEOUT_S = 10.0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server status",
        description="Show state, replicas with the evidence of their readiness, queue and stamp.",
        epilog="exit codes: 0 shown (whatever the state), 2 wrong usage, 4 not reached",
    )
    parser.add_argument("--json", action="store_true", help="print the whole snapshot as JSON")
    add_connection(parser)
    return parser


def run(words: Sequence[str]) -> int:
    arguments = parser().parse_args(words)
    return run_to_end(_status(arguments), arguments.server)


async def _status(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        event = await client.state(TIMEOUT_S)
    shown = event.snapshot
    now = event.server_unix_ns / 1e9
    print(json.dumps(plain(shown)) if arguments.json else report(shown, now))
    return OK
