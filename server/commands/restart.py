"""`server restart`: end the process of one replica and start it again."""

from __future__ import annotations

import argparse

from proto import admin_pb2 as pb
from server.commands.connection import (
    FAILED,
    OK,
    add_connection,
    add_grace,
    add_reason,
    connect,
)
from server.commands.output.command_line import CommandLine
from server.values import count, expecting


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server restart",
        description="End the process of one replica once it has finished what it holds, and start "
        "it again. The others serve meanwhile; requests wait if it is the only one.",
        epilog="exit codes: 0 it serves again, 1 it does not, 2 wrong usage, 3 there is no such "
        "replica, 4 not reached",
    )
    parser.add_argument(
        "replica",
        type=expecting(count, "the number of a replica, as `server status` shows it"),
        metavar="REPLICA",
        help="its number, from 0, as `server status` shows it",
    )
    add_grace(parser)
    add_reason(parser)
    add_connection(parser)
    return parser


async def call(arguments: argparse.Namespace) -> int:
    request = pb.RestartRequest(
        replica=arguments.replica, grace_s=arguments.grace, reason=arguments.reason
    )
    last = pb.Progress()
    async with connect(arguments) as client:
        async for progress in client.stream(client.admin.Restart, request):
            if (progress.step, progress.detail) != (last.step, last.detail):
                print(f"{progress.step}  {progress.detail}", flush=True)
            last = progress
    return OK if last.done else FAILED
