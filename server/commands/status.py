"""`server status`: the state of a server."""

from __future__ import annotations

import argparse
import json

from proto import observe_pb2 as pb
from server.commands.connection import FAILED, OK, add_connection, connect
from server.commands.output.command_line import CommandLine
from server.commands.output.plain_values import plain
from server.commands.output.status_report import report

TIMEOUT_S = 10.0


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server status",
        description="Show state, replicas with the evidence of their readiness, queue and stamp.",
        epilog="exit codes: 0 shown (whatever the state), 2 wrong usage, 4 not reached; 1 with "
        "--verify when anything differs from what was loaded",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="first make every replica compare each byte, in memory and on disk, with what it "
        "loaded; takes as long as hashing the bundle twice",
    )
    parser.add_argument("--json", action="store_true", help="print the whole snapshot as JSON")
    add_connection(parser)
    return parser


async def call(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        if arguments.verify:
            event = await client.unary(client.observe.Verify, pb.VerifyRequest())
        else:
            event = await client.state(TIMEOUT_S)
    shown = event.snapshot
    now = event.server_unix_ns / 1e9
    print(json.dumps(plain(shown)) if arguments.json else report(shown, now))
    return FAILED if arguments.verify and not as_loaded(shown) else OK


def as_loaded(snapshot: pb.ServerSnapshot) -> bool:
    """Whether every replica has verified that nothing differs from what it loaded."""
    checks = [replica.self_check for replica in snapshot.replicas]
    return all(c.verified_unix_ms and not c.changed and not c.error for c in checks)
