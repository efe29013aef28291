"""`server load`: verify, warm and probe a bundle beside the active one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from proto import admin_pb2 as pb
from server.commands.connection import OK, add_connection, connect, run_to_end
from server.commands.output.command_line import CommandLine
from server.commands.output.progress_bar import shown
from server.config import ServerConfig
from server.deploy.remote.location import is_remote
from server.deploy.strategy import ROLLING, SWAPS

BUNDLE_HELP = (
    "directory on the server's host, or https://HOST/DIR, oci://HOST/REPOSITORY:TAG, "
    "oci:///LAYOUT:TAG, s3://BUCKET/PREFIX; #STAMP after a URL refuses another bundle"
)


def source_of(text: str) -> str:
    """The source in the form the server expects: a URL, or an absolute path."""
    return text if is_remote(text) else str(Path(text).resolve())


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server load",
        description="Copy a bundle into the server's store, then verify, warm and probe it beside "
        "the active one. A wrong or slower bundle is refused with the evidence. From a URL each "
        "file is compared with the bundle's manifest, and a broken load continues when repeated.",
        epilog="exit codes: 0 ready, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    parser.add_argument("--activate", action="store_true", help="switch to it when it is ready")
    parser.add_argument(
        "--swap",
        choices=SWAPS,
        default="",
        help="blue-green: a second pool beside the first; rolling: replica by replica, which "
        "serves as it goes (default: blue-green if both pools fit in memory)",
    )
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    arguments.bundle = source_of(arguments.bundle)
    return run_to_end(_load(arguments), arguments.server)


async def _load(arguments: argparse.Namespace) -> int:
    activate = arguments.activate or arguments.swap == ROLLING
    request = pb.LoadRequest(path=arguments.bundle, swap=arguments.swap, activate=activate)
    async with connect(arguments) as client:
        done = await shown(client.stream(client.admin.Load, request))
    print(f"{done.step}  {done.stamp.name}  {done.detail if activate else done.stamp.hex}")
    there = "" if arguments.server == ServerConfig().listen else f" --server {arguments.server}"
    then = "status" if activate else f"activate {done.stamp.hex[:12]}"
    print(f"next: server {then}{there}", file=sys.stderr)
    return OK
