"""`server load`: verify, warm and probe a bundle beside the one that is served."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from server.commands.connection import OK, add_connection, connect, run_to_end


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server load",
        description="Copy a bundle into the server's store, verify, warm and probe it beside the "
        "one that is served. A wrong or slower one is refused with the evidence.",
        epilog="exit codes: 0 ready to be activated, 1 refused, 2 wrong usage, 4 not reached",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a directory on the server's host")
    parser.add_argument("--activate", action="store_true", help="and serve it when it is ready")
    add_connection(parser)
    return parser


def run(words: Sequence[str]) -> int:
    arguments = parser().parse_args(words)
    arguments.bundle = str(Path(arguments.bundle).resolve())
    return run_to_end(_load(arguments), arguments.server)


async def _load(arguments: argparse.Namespace) -> int:
    stamp = ""
    async with connect(arguments) as client:
        layout = "{desc:10} {percentage:3.0f} %|{bar:30}| {postfix}"
        with tqdm(total=1.0, bar_format=layout, disable=not sys.stderr.isatty()) as bar:
            async for progress in client.load(arguments.bundle):
                bar.set_description(progress.step)
                bar.set_postfix_str(progress.detail[:60])
                bar.update(progress.fraction - bar.n)
                stamp = progress.stamp.hex
        print(f"ready  {progress.stamp.name}  {stamp}")
        if arguments.activate:
            done = await client.activate(stamp)
            print(f"{done.step}  {done.stamp.name}  {done.detail}")
    return OK
