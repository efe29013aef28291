"""The progress of a load on a terminal; the steps to keep are printed on lines of their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from tqdm import tqdm

from proto import admin_pb2 as pb

LAYOUT = "{desc:10} {percentage:3.0f} %|{bar:30}| {postfix}"
LOGGED = ("swap", "room", "keeping")
# Each step counts from 0 to 1. Where it begins on the bar, and its share of the bar.
Shares = Mapping[str, tuple[float, float]]
OF_LOAD: Shares = {
    "copying": (0.0, 0.2),
    "fetching": (0.0, 0.2),  # replaces copying for a bundle that is kept elsewhere
    "loading": (0.2, 0.7),
    "proving": (0.9, 0.09),
}
OF_REHEARSAL: Shares = {
    "copying": (0.0, 0.05),
    "loading": (0.05, 0.2),
    "proving": (0.25, 0.05),
    "replaying": (0.3, 0.69),
}


@dataclass(slots=True)
class Forward:
    """The position of a bar from 0 to 1. It never moves back, whatever is reported."""

    shares: Shares
    at: float = field(default=0.0, init=False)

    def moved(self, step: str, fraction: float) -> float:
        """How far the bar advances. In a rolling switch, steps are named `loading 2`, and their
        fraction is of all replicas."""
        base, share = self.shares.get(step.partition(" ")[0], (0.0, 1.0))
        by = max(0.0, min(1.0, base + share * fraction) - self.at)
        self.at += by
        return by


async def shown(steps: AsyncIterator[pb.Progress]) -> pb.Progress:
    """Show all steps; returns the last one."""
    last, forward = pb.Progress(), Forward(OF_LOAD)
    with tqdm(total=1.0, bar_format=LAYOUT, disable=not sys.stderr.isatty()) as bar:
        async for last in steps:
            if last.step in LOGGED:
                tqdm.write(f"{last.step}  {last.detail}", file=sys.stderr)
            bar.set_description(last.step)
            bar.set_postfix_str(last.detail[:60])
            bar.update(forward.moved(last.step, last.fraction))
    return last
