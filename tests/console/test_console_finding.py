"""Finding: typed time ranges, links, names; a misspelt slice is reported as such."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import pytest

from console.app.arguments import follow_link, parser, view_of
from console.app.timeaxis import TimeAxis
from console.finding import finder, links, time_words
from console.finding.finder import Hit, Known
from console.state.access import ConnectionAccess
from console.state.dashboard import View
from console.state.recent_servers import RecentServers

NOW = datetime(2026, 11, 25, 9, 30, tzinfo=UTC).timestamp()  # a Wednesday


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "begin", "end", "live"),
    [
        ("last 3 h", "2026-11-25T06:30", "2026-11-25T09:30", True),
        ("Last 15 min", "2026-11-25T09:15", "2026-11-25T09:30", True),
        ("the last day", "2026-11-24T09:30", "2026-11-25T09:30", True),
        ("2d", "2026-11-23T09:30", "2026-11-25T09:30", True),
        ("yesterday 14:00-15:00", "2026-11-24T14:00", "2026-11-24T15:00", False),
        ("yesterday 14:00 to 15:30 UTC", "2026-11-24T14:00", "2026-11-24T15:30", False),
        ("yesterday", "2026-11-24T00:00", "2026-11-25T00:00", False),
        ("today", "2026-11-25T00:00", "2026-11-25T09:30", False),
        ("monday 08:00-09:00", "2026-11-23T08:00", "2026-11-23T09:00", False),
        ("wednesday", "2026-11-18T00:00", "2026-11-19T00:00", False),
        ("since monday", "2026-11-23T00:00", "2026-11-25T09:30", True),
        ("03:12–03:40", "2026-11-25T03:12", "2026-11-25T03:40", False),
        ("22:00-23:00", "2026-11-24T22:00", "2026-11-24T23:00", False),
        ("yesterday 23:30-00:30", "2026-11-24T23:30", "2026-11-25T00:30", False),
        ("since 03:12", "2026-11-25T03:12", "2026-11-25T09:30", True),
        ("at 03:12", "2026-11-25T03:07", "2026-11-25T03:17", False),
        ("2 h ago", "2026-11-25T07:18", "2026-11-25T07:42", False),
        ("2026-11-20 10:00-11:00", "2026-11-20T10:00", "2026-11-20T11:00", False),
        (
            "2026-11-23T03:12Z 2026-11-23T04:00Z",
            "2026-11-23T03:12",
            "2026-11-23T04:00",
            False,
        ),
    ],
)
def test_a_time_in_words(text: str, begin: str, end: str, live: bool) -> None:
    found = time_words.parse(text, NOW)
    assert (found.from_s, found.to_s, found.live) == (at(begin), at(end), live)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "such as last 15 min"),
        ("soon", "expected a time such as"),
        ("last 5 s", "shorter than 20 s"),
        ("last 300 d", "longer than 90d"),
        ("yesterday 25:00-26:00", "25:00 is not a time of day"),
        ("2027-01-01", "is in the future"),
        ("2026-11-23T04:00Z 2026-11-23T03:12Z", "an end after it"),
    ],
)
def test_what_is_no_time_says_what_would_be(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        time_words.parse(text, NOW)


def test_back_and_forward_are_a_history_of_what_was_shown() -> None:
    clock = [NOW]
    axis = TimeAxis(View(window_s=600), lambda: clock[0])
    assert not axis.back() and not axis.forward()
    axis.show_range(NOW - 7200, NOW - 3600, live=False)
    clock[0] += 5
    for share in (0.1, 0.1, 0.1):  # one drag: its steps come quickly
        axis.pan(share)
    assert axis.back() and (axis.view.window_s, axis.view.end_s) == (3600, NOW - 3600)
    assert axis.back() and axis.view == View(window_s=600)
    assert not axis.back()
    assert axis.forward() and axis.view.end_s == NOW - 3600
    clock[0] += 5
    axis.live()
    assert not axis.forward(), "something new was shown"
    assert axis.back() and axis.span == (NOW - 7200, NOW - 3600)


# ---- names ---------------------------------------------------------------------------------------

KNOWN = Known(
    (
        Hit("server", "gpu-03.lon", "10.0.0.3:8433 · ready", "fleet", "10.0.0.3:8433"),
        Hit("alert", "image.luma drifted at site b", "gpu-03.lon · drift", "alerts", "x\tid"),
        Hit("slice", "site=b", "its predictions", "predictions", "site=b"),
        Hit("slice", 'line="line 4"', "its predictions", "predictions", 'line="line 4"'),
        Hit("feature", "image.luma", "drift · ok", "drift", "image.luma\t"),
    ),
    ("site=a", "site=b", "site=tampere", 'line="line 4"'),
    NOW,
)
COMMANDS = [Hit("command", "Longer window", "-", command="time.longer"),
            Hit("command", "Roll back …", "Shift+R", command="act.rollback"),
            Hit("command", "Pause or resume", "Space", command="time.pause")]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind", "title"),
    [
        ("gpu-03", "server", "gpu-03.lon"),
        ("10.0.0.3", "server", "gpu-03.lon"),
        ("luma", "feature", "image.luma"),
        ("drifted", "alert", "image.luma drifted at site b"),
        ("site=b", "slice", "site=b"),
        ("line 4", "slice", 'line="line 4"'),
        ("roll", "command", "Roll back …"),
        ("lon", "server", "gpu-03.lon"),
        ("0194f3a2b1c8", "prediction", "prediction 0194f3a2b1c8"),
        ("id=0194f3a2b1c8", "prediction", "prediction 0194f3a2b1c8"),
        ("last 3 h", "time", "show last 3 h"),
        ("yesterday 14:00-15:00", "time", "show yesterday 14:00-15:00"),
    ],
)
def test_one_box_finds(text: str, kind: str, title: str) -> None:
    first = finder.find(text, KNOWN, COMMANDS)[0]
    assert (first.kind, first.title) == (kind, title)


def test_a_prediction_leads_to_the_filter_line_that_asks_the_servers() -> None:
    (hit, *_) = finder.find("0194f3a2b1c8", KNOWN, COMMANDS)
    assert (hit.panel, hit.key) == ("predictions", "id=0194f3a2b1c8")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("site=tampre", "no slice site=tampre is known; did you mean site=tampere?"),
        ("sit=b", "no slice sit=b is known; did you mean site=b?"),
        ("site=zz9 conf<0.6", "no slice site=zz9 is known; there are site=a, site=b, site=tampere"),
        ("weather=rain", "no slice weather is known; there are line, site"),
        ("site=b", ""),
        ("site=tam*", ""),
        ('line="line 4"', ""),
        ("conf<0.6 error", ""),
        ("site!=zz", ""),
        ("site", ""),
    ],
)
def test_a_misspelt_slice_says_so(line: str, message: str) -> None:
    found = finder.misspelt(line, KNOWN.slices)
    if message.startswith("no slice site=zz9"):
        assert found.startswith("no slice site=zz9 is known; ")
    else:
        assert found == message


def test_what_means_nothing_says_so_and_offers_the_nearest() -> None:
    hits = finder.find("gpu-3.lon", KNOWN, COMMANDS)
    assert hits[0].kind == "none" and "did you mean gpu-03.lon?" in hits[0].title
    assert hits[1].title == "gpu-03.lon"
    assert finder.find("site=tampre", KNOWN, COMMANDS)[1].title == "site=tampere"
    assert finder.find("", KNOWN, COMMANDS) == tuple(COMMANDS)


# ---- links ---------------------------------------------------------------------------------------

SHOWN = View(window_s=1800, end_s=NOW, measure="ks", expected_stamp="abc")
SERVERS = ["10.0.0.1:8433", "[::1]:8433"]


def opened(link: str, known: RecentServers = RecentServers()) -> argparse.Namespace:  # noqa: B008
    found = parser().parse_args([link])
    assert follow_link(found, lambda: known)
    return found


def test_a_link_opens_the_view_it_was_made_of() -> None:
    line = 'site="line 4" conf<0.6 &?#%'
    link = links.link(SHOWN, (NOW - 1800, NOW), "predictions", line, SERVERS, tls=False)
    found = opened(link)
    assert found.servers == SERVERS and found.filter == line and found.panel == "predictions"
    view = view_of(found)
    assert (view.window_s, view.end_s) == (1800, NOW)
    assert (view.measure, view.expected_stamp) == ("ks", "abc")
    assert not found.tls and not found.again


def test_credentials_go_only_to_servers_that_were_watched_before() -> None:
    access = ConnectionAccess(True, None, Path("/etc/token"))
    known = RecentServers(tuple(SERVERS), access)
    mine = links.link(SHOWN, (NOW - 60, NOW), "fleet", "", SERVERS[:1], tls=True)
    assert opened(mine, known).token_file == access.token_file
    other = links.link(SHOWN, (NOW - 60, NOW), "fleet", "", ["evil:1", SERVERS[0]], tls=True)
    found = opened(other, known)
    assert found.token_file is None and found.servers == ["evil:1", SERVERS[0]]
    for name in ("ca", "token-file", "cert", "key", "cache", "screenshot"):
        assert getattr(opened(f"{mine}&{name}=/etc/passwd"), name.replace("-", "_")) is None


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("trefoil://a:1/nowhere?window=30m", "names the panel 'nowhere'"),
        ("trefoil://a/fleet", "expected HOST:PORT"),
        ("trefoil:a:1", "expected trefoil://"),
        ("trefoil://a:1/fleet?measure=x", "names the measure 'x'"),
        ("trefoil://a:1/fleet?window=" + "9" * 9000, "the limit is 8,000"),
    ],
)
def test_a_link_that_is_wrong_says_what(link: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        opened(link)


def test_a_link_stands_alone() -> None:
    found = parser().parse_args(["trefoil://a:1/fleet", "b:1"])
    with pytest.raises(ValueError, match="a link stands alone"):
        follow_link(found, RecentServers)
