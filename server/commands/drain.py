"""`server drain`: let a server finish accepted work, then exit."""

from __future__ import annotations

import argparse

from proto import admin_pb2 as pb
from server.commands.connection import OK, add_connection, add_grace, add_reason, connect
from server.commands.output.command_line import CommandLine


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server drain",
        description="Refuse new work, finish what was accepted, then exit.",
        epilog="exit codes: 0 drained, 2 wrong usage, 4 not reached",
    )
    add_grace(parser)
    parser.add_argument("--stay", action="store_true", help="drain, but keep the process running")
    add_reason(parser)
    add_connection(parser)
    return parser


async def call(arguments: argparse.Namespace) -> int:
    request = pb.DrainRequest(
        grace_s=arguments.grace, exit=not arguments.stay, reason=arguments.reason
    )
    async with connect(arguments) as client:
        async for progress in client.stream(client.admin.Drain, request):
            print(f"{progress.step} {progress.fraction:4.0%}  {progress.detail}", flush=True)
    return OK
