"""*What changed* and *compare*: the measures against cases computed by hand, and both over a real
cache file."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from console.cache import hosts, sides
from console.cache.insert import TextIds, insert
from console.cache.interned import InternedTexts
from console.cache.quantiles import first_above
from console.cache.rows import open_for_reading
from console.cache.schema import open_for_writing
from console.looks import changes
from console.looks import hosts as host_lines
from console.looks.changes import BadCounts, Group, Measured, Stages
from console.looks.comparing import Compared, Share, Side, compared
from console.state.dashboard import TimelineEvent, View
from console.state.domain import (
    CachedPrediction,
    FeedRow,
    GpuSnapshot,
    HostSnapshot,
    ReceivedRow,
    ServerSnapshot,
)
from console.state.query_types import ReadChanges, ReadComparison, SideWanted
from server.telemetry.outputs import Timing
from server.telemetry.rows import LatencyRow
from tests.support.blank_rows import blank

T0 = 1_790_000_000.0
BEFORE, AFTER = (T0 - 600, T0), (T0, T0 + 600)
# 1,000 rows before with 10 bad ones, 1,000 after with 110: the rise is 10 points.
WHOLE = BadCounts(1000, 10, 1000, 110)


def test_a_group_explains_its_part_of_the_rise_minus_its_share_before() -> None:
    new = BadCounts(0, 0, 100, 100)  # not there before, and brought all of the rise
    assert changes.explains(new, WHOLE) == pytest.approx(1.0)
    half = BadCounts(500, 5, 500, 55)  # as bad as its size makes it: half of the rise, half before
    assert changes.explains(half, WHOLE) == pytest.approx(0.0)
    good = BadCounts(500, 5, 400, 5)  # gave nothing to the rise
    assert changes.explains(good, WHOLE) == pytest.approx(-0.5)
    small = BadCounts(100, 1, 100, 81)  # 8 of the 10 points with a tenth of the rows: 0.8 - 0.1
    assert changes.explains(small, WHOLE) == pytest.approx(0.7)
    grew = BadCounts(100, 10, 300, 110)  # (110 - 10) / 1000 = the whole rise, minus a tenth before
    assert changes.explains(grew, WHOLE) == pytest.approx(0.9)


def test_the_parts_of_a_division_add_up_to_the_rise() -> None:
    parts = [BadCounts(0, 0, 100, 100), BadCounts(500, 5, 500, 5), BadCounts(500, 5, 400, 5)]
    assert BadCounts(*map(sum, zip(*map(astuple, parts), strict=True))) == WHOLE
    gave = [changes.explains(part, WHOLE) + part.rows_before / 1000 for part in parts]
    assert sum(gave) == pytest.approx(1.0)


def test_what_chance_makes_is_not_explained() -> None:
    """10 of 1,000 against 14 of 1,000: pooled 1.2 %, z = 0.004 / sqrt(0.012 * 0.988 / 500)."""
    chance = BadCounts(1000, 10, 1000, 14)
    assert chance.z == pytest.approx(0.004 / math.sqrt(0.012 * 0.988 / 500))
    assert not chance.rose and math.isnan(changes.explains(BadCounts(500, 0, 500, 14), chance))
    found = changes.ranked([Measured("wrong", chance)], Stages(), BEFORE, AFTER)
    assert found.sentences == (
        "wrong of all requests: 1.0 % (0.5–1.8) → 1.4 % (0.8–2.3) (n 1,000 → 1,000): within chance",
    )
    fell = changes.ranked(
        [Measured("wrong", BadCounts(1000, 110, 1000, 10))], Stages(), BEFORE, AFTER
    )
    assert fell.sentences[0].endswith("it fell")
    empty = changes.ranked([Measured("wrong", BadCounts(0, 0, 9, 9))], Stages(), BEFORE, AFTER)
    assert "no rows before, nothing to compare" in empty.sentences[0]


def test_most_comes_first_and_small_things_are_left_out() -> None:
    groups = (
        Group("client", "old", BadCounts(1000, 10, 900, 10)),  # share 100 % -> 90 %, gave nothing
        Group("client", "new", BadCounts(0, 0, 100, 100)),
        Group("slice", "site=b", BadCounts(10, 0, 11, 0)),  # too small to matter
    )
    found = changes.ranked([Measured("late or failed", WHOLE, groups)], Stages(), BEFORE, AFTER)
    assert [line.of for line in found.findings] == ["new", "old"]
    assert found.findings[0].text == (
        "new: 10 % of the rows; late or failed – → 100 % (96–100) (n 0 → 100)"
    )
    assert found.findings[1].explains == pytest.approx(-1.0)


def test_a_stage_is_ranked_by_the_same_measure() -> None:
    """Grew from 40 to 80 ms: the queue by 40 of 40, minus its quarter of the time before."""
    grew = Stages({"queue": 10, "forward": 30}, {"queue": 50, "forward": 30}, 100, 100)
    found = changes.ranked([], grew, BEFORE, AFTER)
    (line,) = found.findings
    assert line.of == "queue" and line.explains == pytest.approx(0.75)
    assert line.text == "10 ms → 50 ms of a request on average"
    assert found.sentences == ("mean time: 40 ms → 80 ms",)
    same = Stages({"queue": 10}, {"queue": 10.2}, 100, 100)
    assert changes.ranked([], same, BEFORE, AFTER).findings == ()


def test_of_one_candidate_the_measure_counts_that_it_explains_most_of() -> None:
    late = Measured(
        "late or failed", WHOLE, (Group("server", "gpu-1", BadCounts(500, 5, 500, 55)),)
    )
    wrong = Measured("wrong", WHOLE, (Group("server", "gpu-1", BadCounts(500, 5, 500, 105)),))
    (line,) = changes.ranked([late, wrong], Stages(), BEFORE, AFTER).findings
    assert line.measure == "wrong" and line.explains == pytest.approx(0.5)


def test_without_a_brush_the_last_quarter_is_looked_at() -> None:
    assert changes.windows(None, (0.0, 400.0)) == ((0.0, 300.0), (300.0, 400.0))
    assert changes.windows((300.0, 400.0), (0.0, 900.0)) == ((200.0, 300.0), (300.0, 400.0))


def test_two_sides_with_the_largest_sure_difference_first() -> None:
    here = Side(
        "a",
        1000,
        {"failed": Share(10, 1000), "late": Share(10, 1000)},
        {"p99": 100.0, "p50": 10.0},
        {"queue": (4, "rows")},
        {"version": "1", "device": "cpu"},
    )
    there = Side(
        "b",
        1000,
        {"failed": Share(60, 1000), "late": Share(12, 1000)},
        {"p99": 300.0, "p50": 10.0},
        {"queue": (4, "rows")},
        {"version": "2", "device": "cpu"},
    )
    found = compared("servers", here, there)
    assert [(line.name, line.difference) for line in found.lines] == [
        ("version", "differs"),
        ("failed", "+5.0 points"),  # 1 % against 6 %: five sixths apart
        ("p99", "x 3.00"),  # two thirds
        ("late", "+0.2 points (chance)"),
        ("device", ""),
        ("p50", ""),
        ("queue", ""),
    ]
    assert found.lines[1].size == pytest.approx(5 / 6)
    few = compared("servers", replace(here, shares={"x": Share(1, 5)}), there)
    assert any(line.difference == "too few rows" for line in few.lines)
    none = compared("stamps", Side("a"), Side("b"))
    assert none == Compared("stamps", "a", "b", (), "no requests of a and b in this window")


def test_of_a_server_that_never_answered_nothing_differs() -> None:
    known = Side("gpu-1", requests=50, facts={"--listen": ":8433", "version": "0.1.0"})
    found = compared("servers", known, Side("10.0.0.9:8433"))
    assert found.lines == ()
    assert found.note == "nothing is known of 10.0.0.9:8433: no answer yet"
    assert len(compared("servers", known, replace(known, name="gpu-2")).lines) == 2


def test_a_figure_is_written_as_all_numbers_of_the_console_are() -> None:
    sides = [
        Side(name, 1, figures={"tolerance": (value, ""), "power": (watts, "W")})
        for name, value, watts in (("a", 0.00002, 1250.0), ("b", 0.00004, math.nan))
    ]
    tolerance, power = compared("servers", *sides).lines
    assert (tolerance.here, tolerance.there, tolerance.difference) == (
        "0.00002",
        "0.00004",
        "x 2.00",
    )
    assert (power.here, power.there, power.difference) == ("1.25 kW", "–", "")


# ---- over a real cache ---------------------------------------------------------------------------


def latency(at_s: float, requests: int, late: int, stamp: str = "a" * 64) -> LatencyRow:
    counts = [0] * 64
    counts[20], counts[40] = requests - late, late  # 8 ms and 256 ms
    return blank(
        LatencyRow,
        bucket_unix_ms=int(at_s * 1000),
        width_s=10,
        stamp=stamp,
        mix="text",
        requests=requests,
        counts=tuple(counts),
        queue_ms=float(requests) * 2,
        forward_ms=float(requests) * (4 if not late else 40),
        total_ms=float(requests) * 8,
    )


def prediction(number: int, at_s: float, client: str, site: str, late: bool) -> CachedPrediction:
    return CachedPrediction(
        prediction_id=f"{number:032x}",
        at_unix_ms=int(at_s * 1000),
        stamp="a" * 64,
        label="ok",
        timing=Timing(0, 0, 0, 0, 0, 256.0 if late else 8.0),
        slices={"site": site},
        client=client,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """gpu-1 as before; gpu-2, redeployed at T0, is late with a new client of site b."""
    path = tmp_path / "cache.db"
    db = open_for_writing(path)
    rows: list[tuple[str, FeedRow]] = []
    for step in range(120):
        at = T0 - 600 + 10 * step
        bad = step >= 60
        rows.append(("1:1", latency(at, 10, 0)))
        rows.append(("2:1", latency(at, 10, 5 if bad else 0, "b" * 64 if bad else "a" * 64)))
        rows.append(("1:1", prediction(2 * step, at, "line-4", "a", False)))
        client, site = ("robot", "b") if bad else ("line-4", "a")
        rows.append(("2:1", prediction(2 * step + 1, at, client, site, bad)))
    events = [ReceivedRow(server, 1, "x", T0 * 1000, row) for server, row in rows]
    insert(db, TextIds(db), events)
    db.close()
    return path


def test_the_deploy_the_client_and_the_slice_stand_first(cache: Path) -> None:
    db = open_for_reading(cache)
    assert db is not None
    deploy = TimelineEvent(T0, "info", "gpu-2 activate b", "2:1", "deploy", "x", "skew", "activate")
    started = TimelineEvent(T0 - 300, "info", "gpu-1 load", "1:1", "deploy", "y", "skew", "load")
    wanted = ReadChanges(BEFORE, AFTER, {"1:1": "gpu-1", "2:1": "gpu-2"}, {"1:1": 0.0, "2:1": 0.0},
                         100.0, (deploy, started))  # fmt: skip
    found = sides.what_changed(db, InternedTexts(db), wanted)
    by_name = {(line.what, line.of): line for line in found.findings}
    # All 300 late ones of 1,200 came after the deploy, and no row of it was there before.
    assert by_name["deploy", "gpu-2 activate b"].explains == pytest.approx(1.0)
    assert by_name["stamp", "bbbbbbbb"].explains == pytest.approx(1.0)
    # Half of the rows before were gpu-2's.
    assert by_name["server", "gpu-2"].explains == pytest.approx(0.5)
    assert by_name["client", "robot"].explains == pytest.approx(1.0)
    assert by_name["slice", "site=b"].explains == pytest.approx(1.0)
    assert by_name["client", "robot"].key == "client=robot"
    assert by_name["slice", "site=b"].text.startswith("new: 50 % of the rows")
    assert by_name["stage", "forward"].explains > 0.3
    assert ("deploy", "gpu-1 load") not in by_name, "loading moves no traffic"
    assert found.findings[0].explains == pytest.approx(1.0)
    assert found.sentences[0] == (
        "late or failed of all requests: 0 % (0.0–0.3) → 25 % (23–28) (n 1,200 → 1,200)"
    )
    assert found.sentences[-1].endswith("120 of 1,200 → 120 of 1,200")
    db.close()


def test_two_servers_two_stamps_and_two_windows_from_the_cache(cache: Path) -> None:
    db = open_for_reading(cache)
    assert db is not None
    names, shifts = InternedTexts(db), {"1:1": 0.0, "2:1": 0.0}
    for kind, here, there in (
        ("servers", SideWanted("gpu-1", AFTER, "1:1"), SideWanted("gpu-2", AFTER, "2:1")),
        ("stamps", SideWanted("a", AFTER, stamp="a" * 64), SideWanted("b", AFTER, stamp="b" * 64)),
        ("windows", SideWanted("before", BEFORE, "2:1"), SideWanted("after", AFTER, "2:1")),
    ):
        found = sides.comparison(db, names, ReadComparison(kind, here, there, shifts, 100.0))
        lines = {line.name: line for line in found.lines}
        assert lines["late or failed"].difference == "+50.0 points", kind
        assert (lines["late or failed"].here, lines["late or failed"].there) == (
            "0 % (0.0–0.6) n 600",
            "50 % (46–54) n 600",
        )
        assert lines["requests"].difference == "" and found.note == ""
        assert found.lines[0].sure and found.lines[0].size > 0.9
    db.close()


def test_a_server_whose_clock_is_behind_is_counted_whole(cache: Path) -> None:
    """Its rows are kept ten minutes before the windows that they belong to."""
    db = open_for_reading(cache)
    assert db is not None
    here, there = (
        SideWanted(name, (T0 + begin, T0 + begin + 600), "2:1")
        for name, begin in (("before", 0), ("after", 600))
    )
    wanted = ReadComparison("windows", here, there, {"1:1": 0.0, "2:1": -600.0}, 100.0)
    found = sides.comparison(db, InternedTexts(db), wanted)
    late = next(line for line in found.lines if line.name == "late or failed")
    assert (late.here, late.there) == ("0 % (0.0–0.6) n 600", "50 % (46–54) n 600")
    db.close()


@pytest.mark.parametrize(
    ("late_ms", "first"),
    [
        (0.0, 64),
        (0.1, 0),
        (0.25, 0),
        (0.26, 1),
        (1.0, 8),
        (100.0, 35),
        (1e9, 64),
        (float("nan"), 64),
    ],
)
def test_a_bucket_is_late_when_all_of_it_lies_above_the_limit(late_ms: float, first: int) -> None:
    """Bucket i begins at 0.25 * 2^(i/4) ms: 35 is the first whose lower edge is above 100 ms."""
    assert first_above(late_ms) == first


# ---- the host ------------------------------------------------------------------------------------


def test_what_the_hosts_use_is_kept_and_read_by_column(tmp_path: Path) -> None:
    """Two servers for a minute: of each figure the highest, NaN where nobody knows it."""
    db = open_for_writing(tmp_path / "cache.db")
    names = TextIds(db)
    for step in range(60):
        for number, address in enumerate(("1:1", "2:1")):
            gpus = (GpuSnapshot(0, "x", 3, 4, 0.5, 100.0 * (number + 1), 60.0 + number),)
            host = HostSnapshot(
                int((T0 + step) * 1000), 0.2 + 0.1 * number, 8, 1, 2, 25, 100, gpus[: 1 - number]
            )
            row = ReceivedRow(address, 1, "x", T0 * 1000, ServerSnapshot(host=host))
            insert(db, names, [row])
    assert db.execute("SELECT count(*) FROM host").fetchone() == (12,), "ten seconds a row"
    view = View(window_s=60, end_s=T0 + 60, columns=100, host=True)
    shifts = {"1:1": 0.0, "2:1": 0.0}
    found = hosts.columns(db, InternedTexts(db), view, (T0, T0 + 60), shifts)
    assert (found.servers, found.column_s, len(found.cpu)) == (2, 10.0, 6)
    assert found.cpu == pytest.approx([0.3] * 6) and found.memory == pytest.approx([0.5] * 6)
    assert found.disk == pytest.approx([0.75] * 6) and found.gpu_memory == pytest.approx([0.75] * 6)
    assert found.power == pytest.approx([100.0] * 6) and found.heat == pytest.approx([60.0] * 6)
    alone = replace(view, scope="2:1")
    found = hosts.columns(db, InternedTexts(db), alone, (T0, T0 + 60), shifts)
    assert found.servers == 1 and not np.isfinite(found.gpu).any()
    older = hosts.columns(db, InternedTexts(db), view, (T0 - 600, T0 - 300), shifts)
    assert older.servers == 0 and not np.isfinite(older.cpu).any()
    db.close()


def test_a_host_is_described_in_lines_and_a_full_disk_is_loud() -> None:
    gpu = GpuSnapshot(0, "H200", 80 << 30, 139 << 30, 0.61, 410.0, 54.0)
    host = HostSnapshot(1, 0.42, 8, 12 << 30, 24 << 30, 3 << 30, 100 << 30, (gpu,))
    assert host_lines.lines(host) == [
        ("CPU 42 % of 8 cores · memory 12 GiB of 24 GiB", False),
        ("disk 3 GiB free of 100 GiB", True),
        ("GPU 0 H200 · 61 % busy · 80 GiB of 139 GiB · 410 W · 54 °C", False),
    ]
    assert host_lines.lines(HostSnapshot()) == []
