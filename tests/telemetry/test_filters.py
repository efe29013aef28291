"""One filter language and one matcher: every line of one table through a server's store and through
a console's cache, which must select the same rows."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from console.cache import drift, filter_sql, predictions
from console.cache.insert import TextIds, insert
from console.cache.interned import InternedTexts
from console.cache.schema import open_for_writing
from console.feed.decode import event
from console.state.events import alert_lines
from proto import observe_pb2
from server.api.observe_messages import event_of
from server.telemetry import filters
from server.telemetry.alerts.book import AlertBook
from server.telemetry.errors import BadFilter
from server.telemetry.filters import equals, parse_filter, parse_matcher, silences, slice_name
from server.telemetry.findings import Finding
from server.telemetry.rows import AlertRow, FeatureRow, SilenceRow
from server.telemetry.settings import TelemetrySettings
from server.telemetry.stamps.feedback import FeedbackItem
from server.telemetry.store.history import TimeSpan
from server.telemetry.telemetry import Telemetry
from tests.support import filter_table as table
from tests.support.telemetry_bench import NOW, SCHEMA, STAMP, Clock, bundle

ROOT = Path(__file__).resolve().parents[2]
DAY = TimeSpan(NOW - 3600, NOW + 86_400)
ADDRESS = "10.0.0.1:8433"


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    """A server's telemetry that holds the rows of the table."""
    settings = TelemetrySettings(tmp_path_factory.mktemp("telemetry"), sample_share=1.0)
    held = Telemetry(settings, Clock(NOW + 60), Clock(0.0), lambda row: None)
    held.adopt(bundle(rows=600))
    rows = table.records()
    for row in rows:
        held.put(row, SCHEMA)
    held.feedback(
        [FeedbackItem(rows[number].prediction_id, label) for number, label in
         table.TRUE_LABELS.items()]
    )  # fmt: skip
    held._recorder.call(lambda: None)  # everything put so far is written
    yield held
    held.close()


@pytest.fixture(scope="module")
def cache(
    telemetry: Telemetry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sqlite3.Connection]:
    """A console's cache with the same rows, as they come over the wire."""
    rows = [row for row in telemetry.history(DAY, ("feature",)) if isinstance(row, FeatureRow)]
    with closing(open_for_writing(tmp_path_factory.mktemp("console") / "cache.db")) as db:
        found = [event(_wire(row), ADDRESS, NOW * 1000) for row in rows]
        found += [event(_wire(row), ADDRESS, NOW * 1000) for row in telemetry.samples(limit=1000)]
        insert(db, TextIds(db), [row for row in found if row is not None])
        yield db


def _wire(row: object) -> observe_pb2.WatchEvent:
    message = event_of(row, observe_pb2.WatchEvent())  # type: ignore[arg-type]
    read: observe_pb2.WatchEvent
    read = observe_pb2.WatchEvent.FromString(message.SerializeToString())
    return read


def in_the_cache(db: sqlite3.Connection, line: str, **aliases: str) -> set[str]:
    clauses, names = parse_filter(line), InternedTexts(db)
    filter_sql.know_features(db, names, drift.features(db), clauses)
    numbers = predictions.numbers(db, filter_sql.where(clauses, None, aliases))
    page = predictions.page(db, names, numbers.tolist())
    return {row.prediction_id for _, row in page.values()}


def in_the_store(telemetry: Telemetry, line: str) -> set[str]:
    return {row.record.prediction_id for row in telemetry.samples(line, limit=1000)}


def test_the_table_is_large_and_tells_rows_apart() -> None:
    assert len(table.LINES) >= 30 and len(table.records()) == 40


@pytest.mark.parametrize(("line", "chooses"), table.LINES)
def test_a_line_has_one_meaning(
    telemetry: Telemetry,
    cache: sqlite3.Connection,
    line: str,
    chooses: Callable[[object, str], bool],
) -> None:
    wanted = {
        row.prediction_id
        for number, row in enumerate(table.records())
        if chooses(row, table.TRUE_LABELS.get(number, ""))
    }
    assert in_the_store(telemetry, line) == wanted
    assert in_the_cache(cache, line) == wanted


@pytest.mark.parametrize(("line", "why"), table.REFUSED)
def test_a_refusal_names_the_term_and_the_remedy(line: str, why: str) -> None:
    with pytest.raises(BadFilter, match=re.escape(why)) as refused:
        parse_filter(line)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(("line", "why"), table.UNFIT)
def test_a_term_that_does_not_fit_the_kind_of_its_feature_is_refused(
    telemetry: Telemetry, cache: sqlite3.Connection, line: str, why: str
) -> None:
    for ask in (lambda: in_the_store(telemetry, line), lambda: in_the_cache(cache, line)):
        with pytest.raises(BadFilter, match=re.escape(why)):
            ask()


def test_a_server_is_chosen_by_name_or_address_where_there_are_several(
    telemetry: Telemetry, cache: sqlite3.Connection
) -> None:
    every = len(table.records())
    every_row = ("server=gpu-1", "server=10.0.0.1*", "server~GPU", "server!=gpu")
    none = ("server!=gpu-1", "server=gpu", "server=10")
    for line, count in {**dict.fromkeys(every_row, every), **dict.fromkeys(none, 0)}.items():
        assert len(in_the_cache(cache, line, **{"gpu-1": ADDRESS})) == count, line
    with pytest.raises(BadFilter, match="predictions of one server: leave this term out"):
        telemetry.samples("server=gpu-1")


@pytest.mark.parametrize("value", ["b", "line 4", 'the "old" press', "tab\tin it"])
@pytest.mark.parametrize("key", ["site", "label", "kept", "camera.side", "at"])
def test_a_term_that_is_written_for_a_slice_reads_back(key: str, value: str) -> None:
    (clause,) = parse_filter(equals(slice_name(key), value))
    assert (clause.kind, clause.name, clause.op) == ("slice", key, "=")
    assert filters.like(value, clause.value)


def _alert() -> Finding:
    return Finding(
        "drift/ab/image",
        "drift",
        "warning",
        "image.brightness drifts",
        STAMP,
        features=("image.brightness", "audio.snr_db"),
        slices=("site=b", "site=line 4"),
    )


@pytest.mark.parametrize(("matcher", "hit"), table.MATCHERS)
def test_a_matcher_has_one_meaning(matcher: str, hit: bool) -> None:
    book = AlertBook(lambda transition: None)
    book.update([_alert()], NOW)
    row = book.rows()[0]
    matcher = matcher.replace("ID", row.id)
    silence = SilenceRow("s1", matcher, int((NOW + 60) * 1000), "ann", "")
    (line,) = alert_lines([("a:1", row)], {}, [("a:1", silence)], {}, NOW)
    assert (line.silenced_until_s > 0) is hit
    try:
        book.silence(matcher, NOW + 60, "ann", "", NOW)
    except BadFilter:
        assert not hit
    assert book.rows()[0].silenced is hit


def test_an_empty_matcher_is_refused_with_the_remedy() -> None:
    for matcher, why in (("", "write kind=\\* to do so"), ("colour=red", "write one of id, key"),
                         ("feature=", "or \\* for anything")):  # fmt: skip
        with pytest.raises(BadFilter, match=why):
            parse_matcher(matcher)


def test_a_matcher_of_an_alert_without_features_does_not_fit_every_feature() -> None:
    row = AlertRow("x", "k", "skew", "high", "firing", 0, 0, 0, STAMP, "")
    assert not silences("feature=*", row) and silences("kind=skew", row)


def _documented(page: str) -> list[str]:
    """The lines of the table of names in a page of the docs."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = lines.index("| name | what it is | operators |")
    return list(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))


def test_both_pages_show_the_one_table_and_every_name_of_it() -> None:
    rows = _documented("telemetry.md")
    assert rows == _documented("console.md")
    named = {
        name
        for row in rows[2:]
        if not row.startswith(("| a name", "| any other"))
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    names = (filters.NUMBERS, filters.TEXTS, filters.DIGITS, filters.FLAGS)
    assert named == {name for group in names for name in group}


@pytest.mark.parametrize("line", ["site=\udce2", 'label="\ud800 x"', "kind=\udfff"])
def test_half_a_character_is_refused_before_it_reaches_a_database(line: str) -> None:
    """As a shell gives it for bytes that are not UTF-8."""
    for parse in (filters.parse_filter, filters.parse_matcher):
        with pytest.raises(BadFilter, match="not UTF-8") as caught:
            parse(line)
        str(caught.value).encode()


def test_many_wildcards_cost_no_more_than_the_text_is_long() -> None:
    """Counted, not timed: a pattern that nearly fits in very many ways is decided in few steps."""
    text = "a" * 2_000
    assert not filters.like(text, "*a" * 300 + "b*")
    assert filters.like(text, "*a" * 300 + "*")
    with pytest.raises(BadFilter, match="more than 4"):
        filters.parse_filter("label=" + "*a" * 5)


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("abc", "abc", True), ("abc", "ab", False), ("abc", "*", True), ("", "*", True),
        ("", "", True), ("abc", "a*c", True), ("abc", "a*d", False), ("aba", "*ba", True),
        ("ab", "ab*b", False), ("abb", "ab*b", True), ("xaybz", "*a*b*", True),
        ("xbya", "*a*b*", False), ("a\nb", "a*b", True), ("a.b", "a?b", False),
        ("aXbXc", "a*X*X*c", True), ("aXc", "a*X*X*c", False),
    ],
)  # fmt: skip
def test_wildcards(text: str, pattern: str, fits: bool) -> None:
    assert filters.like(text, pattern) is fits
