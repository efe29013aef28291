"""The rules of the status line, as a table."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from console.panels.server import facts_of
from console.panels.skew_detail import busiest, lines_of
from console.state.causes import WITHIN_S, causes_of
from console.state.dashboard import (
    AlertLine,
    Board,
    ServerLine,
    SkewCell,
    SkewLine,
    View,
)
from console.state.domain import (
    STAMP_PARTS,
    Link,
    ReplicaSnapshot,
    SelfCheckResult,
    ServerRecord,
    ServerSnapshot,
)
from console.state.events import of_link, timeline_events
from console.state.severity import DOUBTFUL, FEWER, LATE, WRONG
from console.state.skew import compare, majority
from console.state.status import fleet_state, server_state
from console.state.status_messages import Burn
from console.state.timetext import clock_text
from console.state.units import duration
from server.telemetry.rows import AlertRow, DeployRow, IntegrityChange
from tests.support.blank_rows import blank

NOW = 1_000_000.0


def link(state: str = "live", age_s: float = 0.2, **more: object) -> Link:
    return Link("h:1", state=state, heard_s=NOW - age_s, **more)  # type: ignore[arg-type]


def snapshot(**more: object) -> ServerSnapshot:
    values = {"server": "gpu-01", "state": "ready", "warm_replicas": 4, "wanted_replicas": 4}
    return ServerSnapshot(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "result", "severity", "word"),
    [
        (link(), snapshot(), "ok", "ready"),
        (link(), snapshot(warm_replicas=2), "warning", "replicas missing"),
        (link(), snapshot(state="not_ready"), "critical", "not ready"),
        (link(), snapshot(state="draining"), "info", "draining"),
        (link(), snapshot(state="degraded", reason="slow probe"), "warning", "degraded"),
        (link(), snapshot(state="a state of tomorrow"), "unknown", "a state of tomorrow"),
        (link(), snapshot(telemetry_state="disk full"), "warning", "telemetry"),
        (link(), None, "unknown", "no data"),
        (link("lost", 100), snapshot(), "critical", "lost"),
        (link("live", 31), snapshot(), "critical", "lost"),
        (link("lost", 100), snapshot(state="draining"), "warning", "stopped"),
        (Link("h:1", state="lost"), None, "critical", "unreachable"),
        (link("reconnecting", 3), snapshot(), "unknown", "reconnecting"),
        (link("offline", 9000), snapshot(), "unknown", "offline"),
        (Link("h:1"), None, "unknown", "connecting"),
    ],
)
def test_state_of_a_server(
    of: Link, result: ServerSnapshot | None, severity: str, word: str
) -> None:
    found = server_state(ServerRecord(of, result), NOW)
    assert found[:2] == (severity, word)


def test_absence_of_news_is_never_ok() -> None:
    for state in ("connecting", "reconnecting", "lost", "offline"):
        for age in (0.1, 40.0, math.inf):
            of = Link("h:1", state=state, heard_s=0.0 if age == math.inf else NOW - age)
            severity, _, _ = server_state(ServerRecord(of, None), NOW)
            assert severity != "ok", (state, age)


def line(severity: str = "ok", **more: object) -> ServerLine:
    values: dict[str, object] = {
        "link": link(), "snapshot": snapshot(), "severity": severity, "state": "ready", "why": "",
        "age_s": 0.2,
    }  # fmt: skip
    return ServerLine(**{**values, **more})  # type: ignore[arg-type]


def board_of() -> Board:
    return Board(View(), NOW, NOW, NOW, fleet_state([], [], [], [], NOW))


def skewed(name: str, odd: bool) -> SkewLine:
    cells = (SkewCell("ab", odd, True),) + (SkewCell("cd", False, True),) * 6
    return SkewLine("h:1", name, "s", "s", cells, NOW - 60, 0.1, False, (), (), ())


def not_as_loaded(now: bool) -> SkewLine:
    moved = (("replica 1: weights/model.safetensors", "was changed on disk", now),)
    return replace(skewed("gpu-03", False), moved=moved)


def alert(kind: str = "value", severity: str = "critical", **more: object) -> AlertLine:
    values = {"id": "a", "kind": kind, "severity": severity, "state": "firing", "summary": "x"}
    row = blank(AlertRow, **{**values, **more})
    return AlertLine(row, "h:1", "gpu-01", NOW - 90, 0.0, 0.0)


def test_all_well_is_shown_with_the_count_of_servers() -> None:
    result = fleet_state([line(), line()], [], [skewed("a", False)], [], NOW)
    assert (result.state, result.severity) == ("HEALTHY", "ok")
    assert [p.text for p in result.messages] == ["2 of 2 healthy"]


def test_worst_comes_first_and_links_to_its_panel() -> None:
    result = fleet_state(
        [line(), line("warning", why="slow probe")],
        [Burn("h:1", "gpu-01", 812, 250, NOW - 120)],
        [skewed("gpu-03", True)],
        [
            alert("drift", "high", features=("audio.snr_db",), slices=("site=b",)),
            alert("latency"),
        ],
        NOW,
    )
    assert result.state == "CRITICAL"
    assert result.sentence.startswith("gpu-03: weights differs from the fleet · since ")
    assert "(60 s)" in result.sentence
    assert [p.panel for p in result.messages] == [
        "skew",
        "fleet",
        "alerts",
        "drift",
        "latency",
        "fleet",
    ]
    harms = [p.harm for p in result.messages[:-2]]
    assert harms == sorted(harms) == [WRONG, FEWER, LATE, DOUBTFUL]


def test_a_blip_outranks_neither_a_lost_server_nor_a_full_disk_nor_skew() -> None:
    blip = [replace(alert("latency"), server="h:2")]
    full = line("warning", state="telemetry", why="disk full: 812 records wait")
    cases: list[tuple[list[ServerLine], list[SkewLine], str]] = [
        ([lost_line()], [], "gpu-01: nothing listens"),
        ([full], [], "gpu-01 telemetry: disk full"),
        ([line()], [skewed("gpu-03", True)], "gpu-03: weights differs"),
    ]
    for servers, skew, beginning in cases:
        result = fleet_state(servers, [], skew, blip, NOW)
        assert result.sentence.startswith(beginning), result.sentence
        assert result.state == "CRITICAL", "the state is still the gravest of all"


def test_a_slow_replica_outranks_a_full_disk() -> None:
    """Every call is answered while telemetry is not stored, whatever it happened after."""
    slow = line("warning", state="replica slow", why="replica 1: p95 900 ms", since_s=NOW - 4)
    row = blank(DeployRow, at_unix_ms=int((NOW - 150) * 1000), action="start", stamp="ab" * 32)
    full = alert("telemetry", "high", summary="telemetry degraded: disk I/O error")
    result = fleet_state([slow], [], [], [full], NOW, causes_of([], [("h:1", row)], {}))
    assert result.sentence.startswith("gpu-01 replica slow: replica 1"), result.sentence
    assert result.messages[1].detail.startswith("gpu-01: telemetry degraded: disk I/O error, 60 s")


def test_slow_requests_of_one_minute_are_counted_and_are_no_state() -> None:
    """ "SLO burning" flipped on single slow requests, and left no alert to acknowledge."""
    burn = Burn("h:1", "gpu-01", 812, 250, NOW - 20)
    result = fleet_state([line()], [burn], [], [], NOW)
    assert result.state == "HEALTHY"
    assert ("info", "p99 above SLO") in [(m.severity, m.text) for m in result.messages]
    burns = fleet_state([line()], [burn], [], [alert("latency")], NOW)
    assert (burns.state, burns.messages[0].text) == ("CRITICAL", "1 SLO burning")


def test_one_cause_stands_before_its_symptoms() -> None:
    cells = (
        SkewCell("ab", False, True),
        SkewCell("cd", True, True),
        *[SkewCell("e", False, True)] * 5,
    )
    changed = replace(skewed("gpu-03", False), cells=cells, since_s=NOW - 240)
    wrong = replace(alert("value", summary="accuracy 79 %"), name="gpu-03")  # opened 90 s ago
    late = replace(alert("latency", id="b"), name="gpu-03", opened_s=NOW - 60)
    causes = causes_of([changed], [], {})
    result = fleet_state([line()], [], [changed], [late, wrong], NOW, causes)
    beginning = "gpu-03: accuracy 79 % (and 1 more), 2.5 min after its preprocessing changed"
    assert result.sentence.startswith(beginning)
    assert [m.text for m in result.messages] == ["2 problems after version skew", "1 of 1 healthy"]
    # What opened before the change, or long after it, or at another server, is not its symptom.
    for apart in (
        replace(wrong, opened_s=NOW - 300),
        replace(wrong, server="h:2"),
        replace(wrong, opened_s=NOW - 240 + WITHIN_S + 1),
    ):
        result = fleet_state([line()], [], [changed], [apart], NOW, causes)
        texts = [m.text for m in result.messages]
        assert texts[:2] == ["1 value alert", "1 server with version skew"], apart


def test_a_deploy_is_the_cause_of_what_follows_it() -> None:
    row = blank(DeployRow, at_unix_ms=int((NOW - 150) * 1000), action="activate", stamp="ab" * 32)
    causes = causes_of([], [("h:1", row)], {})
    result = fleet_state([line()], [], [], [alert("latency", summary="p99 812 ms")], NOW, causes)
    assert result.sentence.startswith("gpu-01: p99 812 ms, 60 s after it activated abababab")


@pytest.mark.parametrize(("now", "state", "rest"), [(False, "DEGRADED", "after a restart"),
                                                    (True, "CRITICAL", "differ now")])  # fmt: skip
def test_a_server_that_is_no_longer_what_it_loaded_is_shown(
    now: bool, state: str, rest: str
) -> None:
    found = alert("skew", "high", key="skew/loaded", summary="version skew: replica 1")
    lines = [skewed("gpu-01", False), not_as_loaded(now)]
    result = fleet_state([line()], [], lines, [found], NOW)
    assert result.state == state
    assert result.sentence.startswith("gpu-03: replica 1: weights/model.safetensors was changed")
    assert rest in result.sentence
    # The alert of the same server adds nothing.
    assert [(p.text, p.panel) for p in result.messages[:-1]] == [
        ("1 server changed since load", "skew")
    ]
    alone = fleet_state([line()], [], [skewed("gpu-01", False)], [found], NOW)
    assert alone.sentence.startswith("gpu-01: version skew: replica 1")


def test_a_fault_of_several_replicas_is_shown_once_and_the_gravest_first() -> None:
    disk = IntegrityChange("file", "weights/model.safetensors", "was changed on disk", False)
    memory = IntegrityChange(
        "memory", "pipelines.models.qwen.log_mel.mel", "was replaced in memory", True
    )
    checks = (
        SelfCheckResult((disk,), 1),
        SelfCheckResult((disk, memory), 1),
        SelfCheckResult((), 0, error="no"),
    )
    replicas = tuple(ReplicaSnapshot(index=i, self_check=check) for i, check in enumerate(checks))
    (found,) = compare([ServerRecord(link(), snapshot(stamp="s", replicas=replicas))], [], NOW)
    assert found.moved == (
        ("replica 1: pipelines.models.qwen.log_mel.mel", "was replaced in memory", True),
        ("replica 0, 1: weights/model.safetensors", "was changed on disk", False),
        ("replica 2: self-check", "failed: no", False),
    )
    assert found.severity == "critical" and not found.odd
    moved = [part for part, cell in zip(STAMP_PARTS, found.cells, strict=True) if cell.moved]
    assert moved == ["weights", "code"]
    text = [text for text, _ in lines_of(found, board_of())]
    assert "≠ replica 1: pipelines.models.qwen.log_mel.mel" in text
    assert "   was replaced in memory: answers may differ now" in text


def test_only_unknown_servers_are_unknown_not_healthy() -> None:
    result = fleet_state([line("unknown", state="reconnecting")] * 2, [], [], [], NOW)
    assert result.state == "UNKNOWN"
    assert result.messages[-1].text == "0 of 2 healthy"
    assert result.messages[-1].severity == "unknown"


def lost_line() -> ServerLine:
    of = link("lost", 12, detail="connection refused")
    severity, state, why = server_state(ServerRecord(of, snapshot()), NOW)
    return line(severity, state=state, why=why, link=of, age_s=12.0)


def test_a_killed_server_is_the_headline_and_its_last_report_is_not() -> None:
    """It was the quietest thing on the screen: grey, below the p99 that it had sent before."""
    well = line(link=replace(link(), address="h:2"))
    result = fleet_state(
        [lost_line(), well],
        [Burn("h:1", "gpu-01", 812, 250, NOW - 120)],
        [skewed("gpu-01", True)],
        [alert("latency"), alert("drift")],
        NOW,
    )
    assert result.state == "CRITICAL"
    since = clock_text(NOW - 12)
    assert (
        result.sentence == f"gpu-01: nothing listens since {since} (connection refused) · 12 s ago"
    )
    assert [message.text for message in result.messages] == ["1 server lost", "1 of 2 healthy"]


def test_what_a_lost_server_reported_last_is_dated_and_no_sign_of_it_is_green() -> None:
    replicas = tuple(ReplicaSnapshot(index=i, state="ready", device="cpu") for i in range(2))
    found = replace(lost_line(), snapshot=snapshot(replicas=replicas))
    shown = facts_of(found, NOW)
    assert shown[0].text.startswith("nothing listens since") and shown[0].tone == "critical"
    assert shown[1].text.startswith(f"last reported at {clock_text(NOW - 12)} UTC")
    assert {fact.tone for fact in shown[1:]} == {"dim"}
    assert {fact.sign for fact in shown[1:]} == {""}
    record = ServerRecord(found.link, snapshot(stamp="s"))
    (skew_line,) = compare([record], [], NOW)
    assert skew_line.past and "does not answer" in str(lines_of(skew_line, board_of()))


def test_only_what_fires_is_loud() -> None:
    """One look counted as `28 slices drifting`, and an alert that was pending as open."""
    pending = alert("drift", "critical", state="pending")
    result = fleet_state([line()], [], [], [pending], NOW)
    assert result.state == "HEALTHY"
    assert ("info", "1 pending") in [(m.severity, m.text) for m in result.messages]
    event = timeline_events([pending], [], {}, [])[0]
    assert event.severity == "info" and "pending" in event.text
    features = {"features": ("audio.snr_db", "audio.rms"), "slices": ("site=b",)}
    fires = alert("drift", "high", **features)
    result = fleet_state([line()], [], [], [fires, alert("structural", "warning")], NOW)
    assert (result.state, result.messages[0].text) == ("DEGRADED", "2 features drifting")
    assert result.messages[0].key == "audio.snr_db\tsite=b"
    assert result.messages[0].at_s == NOW - 90


def test_the_headline_names_what_else_drifts_at_the_same_place() -> None:
    """A site whose camera and microphone both drift had only its microphone in the headline."""
    sound = alert("drift", "high", key="audio", features=("audio.snr_db",), slices=("site=b",))
    picture = alert(
        "drift", "high", key="image", features=("image.brightness",), slices=("site=b",)
    )
    text = alert("drift", "high", key="text", features=("text.tokens",), slices=("site=c",))
    result = fleet_state([line()], [], [], [sound, picture, text], NOW)
    assert result.sentence.startswith("gpu-01: x; image.brightness there too · since ")
    elsewhere = fleet_state([line()], [], [], [sound, text], NOW)
    assert elsewhere.sentence.startswith("gpu-01: x · since ")


def test_acknowledged_alert_is_counted_not_shouted() -> None:
    loud = fleet_state([line()], [], [], [alert()], NOW)
    held = fleet_state([line()], [], [], [alert(acknowledged_by="kim")], NOW)
    assert loud.state == "CRITICAL"
    assert held.state == "HEALTHY"
    assert "1 acknowledged or silenced" in [p.text for p in held.messages]


def test_unknown_severity_of_an_alert_counts_as_warning() -> None:
    assert fleet_state([line()], [], [], [alert(severity="apocalyptic")], NOW).state == "DEGRADED"


def test_offline_shows_the_age_of_the_data() -> None:
    off = line("unknown", state="offline", link=link("offline", 7200), age_s=7200.0)
    result = fleet_state([off], [], [], [], NOW)
    assert result.state == "OFFLINE"
    assert "2 h 00 old" in result.sentence


def test_clock_and_lost_records_are_shown() -> None:
    odd = line(link=link(offset_ms=412.0), snapshot=snapshot(telemetry_dropped=7))
    texts = [p.text for p in fleet_state([odd], [], [], [], NOW).messages]
    assert "1 clock differs" in texts
    assert "7 records dropped" in texts


def test_skew_seen_by_a_server_among_neighbours_we_do_not_watch_is_shown() -> None:
    """One server watched: there is no fleet here to compare it with, but it compared itself."""
    found = alert("skew", "high", summary="press-9 serves other labels")
    result = fleet_state([line()], [], [skewed("gpu-01", False)], [found], NOW)
    assert result.state == "DEGRADED"
    assert result.sentence.startswith("gpu-01 reports it about its neighbours: press-9 serves")
    reported = [p.text for p in result.messages]
    assert reported[0] == "1 skew alert"
    # What the console sees by itself is not reported twice.
    result = fleet_state([line()], [], [skewed("gpu-01", True)], [found], NOW)
    assert [p.panel for p in result.messages] == ["skew", "fleet"]


@pytest.mark.parametrize("kind", ["latency", "drift", "readiness", "telemetry", ""])
def test_every_open_alert_is_shown(kind: str) -> None:
    result = fleet_state([line()], [], [], [alert(kind)], NOW)
    assert result.state == "CRITICAL", kind
    assert result.messages[0].panel == ("drift" if kind == "drift" else "alerts")


def test_plaintext_is_loud_but_is_no_outage() -> None:
    open_ = line(snapshot=snapshot(insecure=True))
    result = fleet_state([open_, line()], [], [], [], NOW)
    assert result.state == "HEALTHY"
    assert [(p.severity, p.text) for p in result.messages][0] == (
        "warning",
        "1 server in plaintext",
    )
    assert "--insecure" in result.sentence
    over_network = line(link=link(plaintext=True))
    assert fleet_state([over_network], [], [], [], NOW).messages[0].text == "1 server in plaintext"
    worse = fleet_state([open_, line("warning", why="slow")], [], [], [], NOW)
    assert worse.state == "DEGRADED" and "slow" in worse.sentence


def test_majority_of_a_tie_does_not_flicker() -> None:
    assert majority(["b", "a"]) == majority(["a", "b"]) == "a"
    assert majority(["b", "a"], prefer="b") == "b"
    assert majority(["a", "b", "b", ""]) == "b"
    assert majority(["", ""]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (31, "31 s"), (240, "4 min"), (11_100, "3 h 05"), (200_000, "2 d"),
     (math.nan, "?"), (-3, "-3.0 s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_server_that_floods_the_console_is_named_and_not_healthy() -> None:
    flood = "sends more than 5,000 rows/s or 2.1 MB/s; the rest waits"
    result = fleet_state([line(), line(link=link(flood=flood))], [], [], [], NOW)
    assert result.state != "HEALTHY"
    assert result.messages[0].text == "1 server floods the console"
    assert flood in result.messages[0].detail
    began = of_link(link(), link(flood=flood), "gpu-01", NOW)
    over = of_link(link(flood=flood), link(), "gpu-01", NOW)
    assert began is not None and (began.severity, flood in began.text) == ("warning", True)
    assert over is not None and over.severity == "ok"


def test_a_server_is_lost_since_it_was_last_heard_not_since_this_console_noticed() -> None:
    gone = link("lost", age_s=240, detail="connection refused")
    event = of_link(link("reconnecting"), gone, "gpu-01", NOW)
    assert event is not None and event.at_s == NOW - 240
    never = of_link(link(), link("lost", age_s=NOW), "gpu-01", NOW)
    assert never is not None and never.at_s == NOW


def test_the_shares_of_stamps_are_those_of_the_window() -> None:
    """The last interval was reported by one server of two, and its stamp was shown with 100 %."""
    shares = [("ab", np.array([np.nan, 0.5, 0.5, 1.0])), ("cd", np.array([np.nan, 0.5, 0.5, 0]))]
    assert [(round(share, 2), stamp) for share, stamp, _ in busiest(shares)] == [
        (0.67, "ab"),
        (0.33, "cd"),
    ]
