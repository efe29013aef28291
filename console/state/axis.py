"""Which clock the time axis follows. The servers date their rows. Where all of them simulate time,
as in a demo of two weeks in minutes, the axis follows their clock. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from console.state.domain import Link


def of(
    links: Mapping[str, Link] | None, now_s: float
) -> tuple[Mapping[str, Link] | None, float, float]:
    """(links with their times on the axis, now on the axis, its speed). Ages stay on this machine's
    clock: a server last heard two seconds ago is two seconds old at any speed."""
    heard = [link for link in (links or {}).values() if link.heard_s]
    shown = [link.simulated for link in heard if link.simulated is not None]
    if links is None or not shown or len(shown) < len(heard):
        return links, now_s, 1.0
    latest = max(shown, key=lambda one: one.now_s(now_s))
    axis_s = latest.now_s(now_s)
    ahead_s = axis_s - now_s
    moved = {address: _moved(link, ahead_s) for address, link in links.items()}
    return moved, axis_s, latest.speed


def _moved(link: Link, ahead_s: float) -> Link:
    heard_s = link.heard_s + ahead_s if link.heard_s else 0.0
    return replace(link, heard_s=heard_s, since_s=link.since_s + ahead_s, offset_ms=math.nan)
