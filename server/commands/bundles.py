"""`server bundles`: what the store holds, and what each bundle is there for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from proto import admin_pb2 as pb
from server.commands.connection import FAILED, OK, add_connection, connect, run_to_end
from server.commands.output.status_report import table
from server.deploy.bundle_listing import bundle_message, list_bundles, rows
from server.deploy.bundle_store import FOLDER, BundleStore

HEAD = ("name", "stamp", "MiB", "what for")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server bundles",
        description="List the bundles a server keeps, the newest first: current and previous are "
        "what a restart and a rollback after it serve; serves, standby, loaded and canary are what "
        "is in memory now.",
        epilog="exit codes: 0 shown, 1 no store there, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="read the disk, ask no server")
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.data is None:
        return run_to_end(_ask(arguments), arguments.server)
    folder = arguments.data / FOLDER
    if not folder.is_dir():
        print(f"{folder} is no store of bundles", file=sys.stderr)
        return FAILED
    _show([bundle_message(one) for one in list_bundles(BundleStore(folder))])
    return OK


async def _ask(arguments: argparse.Namespace) -> int:
    async with connect(arguments) as client:
        found = await client.bundles()
    _show(found.bundles)
    return OK


def _show(bundles: Sequence[pb.StoredBundle]) -> None:
    print(table(HEAD, rows(bundles)) or "  none yet")
