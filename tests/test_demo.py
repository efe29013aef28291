"""The demo's traffic is played while it is drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from console.state.events import PANEL_OF
from console.state.severity import HARM_OF
from examples import plant
from examples.fortnight import pace
from examples.plant import Item, bursts


def items(first: int, count: int, site: str = "a") -> list[Item]:
    return [Item(b"", site, "early", str(first + n)) for n in range(count)]


def labels(runs: Iterator[list[Item]], least: int) -> list[str]:
    found: list[str] = []
    while len(found) < least:
        found += [item.label for item in next(runs)]
    return found


def test_what_is_drawn_meanwhile_is_played_before_anything_twice() -> None:
    pool = items(0, 20)
    runs = bursts(pool, np.random.default_rng(1))
    assert labels(runs, 20) == [str(n) for n in range(20)]
    pool += items(20, 12, "b")
    assert labels(runs, 12) == [str(n) for n in range(20, 32)]
    again = labels(runs, 32)
    assert sorted(again, key=int) == [str(n) for n in range(32)], "each once, in another order"


def test_faulty_requests_are_drawn_among_the_others() -> None:
    tasks = plant._tasks(24, 4)
    places = [place for place, (_, faulty) in enumerate(tasks) if faulty]
    assert len(tasks) == 28 and places[0] < 7 and places[-1] > 20
    assert len({seed for seed, _ in tasks}) == 28


def test_drawing_what_is_left_takes_its_share_of_the_weeks() -> None:
    drawn_first, _ = pace(24_000, 0, 60.0)
    drawn_meanwhile, why = pace(24_000, 6_000, 60.0)
    assert drawn_meanwhile == drawn_first + 100.0
    assert why.startswith("60 requests a second are drawn")


def test_each_kind_of_alert_leads_to_a_panel() -> None:
    kinds = {"drift", "structural", "latency", "readiness", "replica", "skew", "value", "server"}
    assert kinds <= set(PANEL_OF) and set(HARM_OF) - {"telemetry"} <= set(PANEL_OF)
