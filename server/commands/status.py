"""`server status`: the state of a server."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from proto import observe_pb2 as pb
from server.commands.client import CommandConnection
from server.commands.connection import FAILED, OK, add_connection, connect, error_message
from server.commands.output.command_line import CommandLine
from server.commands.output.plain_values import plain
from server.commands.output.status_report import report
from server.commands.output.status_summary import summary
from server.ops.event_log import shows_colours
from server.values import above_zero, expecting
from trefoil import TrefoilError

TIMEOUT_S = 10.0
WATCH_S = 2.0
HOUR_MS = 3_600_000
CLEAR = "\033[H\033[J"  # move to the first line and clear below


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server status",
        description="Show state, replicas, queue, latency, stamp and alerts in fifteen lines; with "
        "--full everything, including the evidence of readiness.",
        epilog="exit codes: 0 shown (whatever the state), 2 wrong usage, 4 not reached; 1 with "
        "--verify when anything differs from what was loaded",
    )
    parser.add_argument("--full", action="store_true", help="show all that the server reports")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=expecting(above_zero, "a number of seconds above 0"),
        const=WATCH_S,
        metavar="S",
        help=f"show it again every S seconds ({WATCH_S:g}) until interrupted",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="first make every replica compare each byte, in memory and on disk, with what it "
        "loaded; takes as long as hashing the bundle twice; implies --full",
    )
    parser.add_argument("--json", action="store_true", help="print the whole snapshot as JSON")
    add_connection(parser)
    return parser


async def call(arguments: argparse.Namespace) -> int:
    if arguments.watch and (arguments.verify or arguments.json):
        print("server status: --watch goes without --verify and --json", file=sys.stderr)
        raise SystemExit(2)
    async with connect(arguments) as client:
        if arguments.watch:
            await _watch(client, arguments)
        if arguments.verify:
            event = await client.unary(client.observe.Verify, pb.VerifyRequest())
        else:
            event = await client.state(TIMEOUT_S)
        if arguments.json:
            print(json.dumps(plain(event.snapshot)))
        else:
            print(await _text(client, event, arguments.full or arguments.verify))
    return FAILED if arguments.verify and not as_loaded(event.snapshot) else OK


async def _watch(client: CommandConnection, arguments: argparse.Namespace) -> None:
    """Watch until interrupted: a server that is unreachable for a while is shown as unreachable."""
    clear = CLEAR if sys.stdout.isatty() else ""
    while True:
        try:
            text = await _text(client, await client.state(TIMEOUT_S), arguments.full)
        except TrefoilError as error:
            if not error.unreachable:
                raise
            text = error_message(error, arguments.server)
        print(f"{clear}{text}", flush=True)
        await asyncio.sleep(arguments.watch)


async def _text(client: CommandConnection, event: pb.WatchEvent, full: bool) -> str:
    now = event.server_unix_ns / 1e9
    if full:
        return report(event.snapshot, now)
    colours = shows_colours(sys.stdout, os.environ)
    return summary(event.snapshot, await _firing(client, int(now * 1000)), now, colours)


async def _firing(client: CommandConnection, now_ms: int) -> list[pb.AlertRow]:
    """The alerts that are firing and not silenced."""
    request = pb.HistoryRequest(
        from_unix_ms=now_ms - HOUR_MS, to_unix_ms=now_ms + HOUR_MS, kinds=["alert"]
    )
    latest: dict[str, pb.AlertRow] = {}
    async for event in client.stream(client.observe.History, request, TIMEOUT_S):
        latest[event.alert.id] = event.alert
    return [one for one in latest.values() if one.state == "firing" and not one.silenced]


def as_loaded(snapshot: pb.ServerSnapshot) -> bool:
    """Whether every replica has verified that nothing differs from what it loaded."""
    checks = [replica.self_check for replica in snapshot.replicas]
    return all(c.verified_unix_ms and not c.changed and not c.error for c in checks)
