"""The progress of a load on a terminal; what is worth keeping goes to a line of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from tqdm import tqdm

from proto import admin_pb2 as pb

LAYOUT = "{desc:10} {percentage:3.0f} %|{bar:30}| {postfix}"
LOGGED = ("swap", "room", "keeping")


async def shown(steps: AsyncIterator[pb.Progress]) -> pb.Progress:
    """The last step, once all have been shown."""
    last = pb.Progress()
    with tqdm(total=1.0, bar_format=LAYOUT, disable=not sys.stderr.isatty()) as bar:
        async for last in steps:
            if last.step in LOGGED:
                tqdm.write(f"{last.step}  {last.detail}", file=sys.stderr)
            bar.set_description(last.step)
            bar.set_postfix_str(last.detail[:60])
            bar.update(last.fraction - bar.n)
    return last
