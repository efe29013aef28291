"""`server bundles`: the stored bundles and the role of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from proto import admin_pb2 as pb
from server.commands.connection import FAILED, OK, add_connection, connect, run_to_end
from server.commands.output.command_line import CommandLine
from server.commands.output.status_report import table
from server.deploy.bundle_listing import bundle_message, list_bundles, rows
from server.deploy.bundle_store import FOLDER, BundleStore

HEAD = ("name", "stamp", "MiB", "roles")


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server bundles",
        description="List the bundles in a server's store, newest first. current and previous: "
        "served after a restart, and after a rollback that follows it. serves, standby, loaded and "
        "canary: in memory now.",
        epilog="exit codes: 0 listed, 1 there is no store, 2 wrong usage, 4 not reached",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="read this directory instead of calling a server"
    )
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.data is None:
        return run_to_end(_ask(arguments), arguments.server)
    folder = arguments.data / FOLDER
    if not folder.is_dir():
        print(f"{folder} is not a bundle store", file=sys.stderr)
        return FAILED
    _show([bundle_message(one) for one in list_bundles(BundleStore(folder))])
    return OK


async def _ask(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        found = await client.unary(client.admin.Bundles, pb.BundlesRequest())
    _show(found.bundles)
    return OK


def _show(bundles: Sequence[pb.StoredBundle]) -> None:
    print(table(HEAD, rows(bundles)) or "  none yet")
