"""Matches one line of text against servers, features, slices, alerts, predictions by id, times and
commands, best match first. An unknown slice or name is reported, with the nearest known one.
Pure."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from console.finding import time_words
from console.finding.time_words import TimeRange
from console.state.dashboard import Board
from console.state.timetext import clock_text
from server.telemetry.filters import BadFilter, Clause, equals, parse_filter, slice_name

MOST = 40
NEAR = 0.6  # difflib's ratio from which a similar name is suggested
_ID = re.compile(r"[0-9a-f]{8,32}")
_ORDER = ("server", "slice", "feature", "alert", "prediction", "time", "command")


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of the list. A choice runs `command` if it has one, or shows the time `span` if it
    has one, or else opens `panel` at `key` and `at_s`."""

    kind: str  # one of _ORDER, or "none" for a sentence that does nothing
    title: str
    detail: str = ""
    panel: str = ""
    key: str = ""
    at_s: float = math.nan
    command: str = ""
    span: TimeRange | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What can be found, taken from one board."""

    hits: tuple[Hit, ...] = ()
    slices: tuple[str, ...] = ()  # name=value
    now_s: float = 0.0


def known_of(board: Board | None) -> Known:
    if board is None:
        return Known()
    slices = slices_of(board)
    hits = [
        *(
            Hit("server", line.name, f"{line.address} · {line.state}", "fleet", line.address)
            for line in board.servers
        ),
        *(
            Hit(
                "alert",
                line.row.summary,
                f"{line.name} · {line.row.kind} · {line.row.state} since "
                f"{clock_text(line.opened_s, '%d %b %H:%M')}",
                "alerts",
                f"{line.server}\t{line.row.id}",
                line.opened_s,
            )
            for line in board.alerts
        ),
        *(Hit("slice", one, "its predictions", "predictions", one) for one in slices),
        *_features(board),
    ]
    return Known(tuple(hits), slices, board.made_s)


def slices_of(board: Board) -> tuple[str, ...]:
    """Every slice that a server has named, in the notation of the filter line."""
    found = dict.fromkeys(
        part
        for text in (
            *(line.row.slice for line in board.drift),
            *(line.row.slice for line in board.quality),
            *(one for line in board.alerts for one in line.row.slices),
        )
        for part in text.split(" & ")
        if "=" in part
    )
    return tuple(_as_filter(part) for part in found)


def _as_filter(part: str) -> str:
    name, _, value = part.partition("=")
    return equals(slice_name(name), value)


def _features(board: Board) -> list[Hit]:
    """Each feature once, where it has shifted most: the drift lines come worst first."""
    seen: dict[str, Hit] = {}
    for line in board.drift:
        row = line.row
        where = f"drift · {row.level} in {row.slice or 'all traffic'}"
        hit = Hit("feature", row.feature, where, "drift", f"{row.feature}\t{row.slice}")
        seen.setdefault(row.feature, hit)
    return list(seen.values())


def find(text: str, known: Known, commands: Iterable[Hit]) -> tuple[Hit, ...]:
    """The hits for a text, best first; without a text, every command. A text that matches nothing
    gets an entry that explains this."""
    wanted = text.strip().lower()
    commands = list(commands)
    if not wanted:
        return tuple(commands)
    found = [*_matching(wanted, known.hits), *_prediction(wanted), *_time(text, known.now_s)]
    found += _commands(wanted, commands)
    found.sort(key=lambda pair: pair[0])
    hits = [hit for _, hit in found][:MOST]
    sentence = misspelt(text, known.slices)
    if sentence and not any(hit.kind == "slice" and hit.title == wanted for hit in hits):
        hits.insert(0, Hit("none", sentence))
        hits += _near_slices(wanted, known.slices, hits)
    if not hits:
        hits = [
            Hit("none", _nothing(wanted, known, commands)),
            *_suggested(wanted, known, commands),
        ]
    return tuple(hits)


def _rank(wanted: str, title: str) -> int | None:
    """0: equal, 1: one of its words begins with the text, 3: it contains every word. None: no
    match."""
    low = title.lower()
    if low == wanted:
        return 0
    if re.search(rf"(?:^|[\s._/=-]){re.escape(wanted)}", low):
        return 1
    return 3 if all(word in low for word in wanted.split()) else None


def _matching(wanted: str, hits: Sequence[Hit]) -> list[tuple[tuple[int, int, int], Hit]]:
    found = []
    for place, hit in enumerate(hits):
        ranks = [_rank(wanted, hit.title), _rank(wanted, f"{hit.title} {hit.detail}")]
        best = min((rank for rank in ranks if rank is not None), default=None)
        if best is not None:
            found.append(((best, _ORDER.index(hit.kind), place), hit))
    return found


def _commands(wanted: str, commands: Sequence[Hit]) -> list[tuple[tuple[int, int, int], Hit]]:
    found = []
    for place, hit in enumerate(commands):
        if all(word in f"{hit.title} {hit.command}".lower() for word in wanted.split()):
            rank = _rank(wanted, hit.title)
            found.append(((3 if rank is None else rank, _ORDER.index("command"), place), hit))
    return found


def _prediction(wanted: str) -> list[tuple[tuple[int, int, int], Hit]]:
    """A prediction id. The servers, which hold all rows, are asked for it; its first digits are
    enough."""
    digits = wanted.removeprefix("id=").replace("-", "")
    if not _ID.fullmatch(digits):
        return []
    hit = Hit("prediction", f"prediction {digits}", "asks the servers", "predictions",
              f"id={digits}")  # fmt: skip
    return [((1, _ORDER.index("prediction"), 0), hit)]


def _time(text: str, now_s: float) -> list[tuple[tuple[int, int, int], Hit]]:
    try:
        span = time_words.parse(text, now_s)
    except ValueError:
        return []
    return [((0, _ORDER.index("time"), 0), Hit("time", f"show {text.strip()}", span.text,
                                               span=span))]  # fmt: skip


def misspelt(line: str, slices: Sequence[str]) -> str:
    """`no slice site=bb is known; did you mean site=b?` for the first term of a filter line that
    names a slice no server has reported. Empty otherwise, and while no slice is known at all."""
    if not slices or "=" not in line:
        return ""
    try:
        clauses = parse_filter(line)
    except BadFilter:
        return ""
    names = {one.partition("=")[0] for one in slices}
    for clause in clauses:
        name = slice_name(clause.name)
        if clause.kind == "slice" and clause.op == "=" and not _is_known(clause, slices):
            near = nearest(equals(name, clause.value), slices)
            if near:
                return f"no slice {clause.term} is known; did you mean {near[0]}?"
            values = [one for one in slices if one.startswith(f"{name}=")]
            if name in names:
                return f"no slice {clause.term} is known; there are {', '.join(values[:6])}"
            return f"no slice {clause.name} is known; there are {', '.join(sorted(names)[:8])}"
    return ""


def _is_known(clause: Clause, slices: Sequence[str]) -> bool:
    name = slice_name(clause.name)
    if "*" in clause.value:
        return any(one.startswith(f"{name}=") for one in slices)
    return equals(name, clause.value) in slices


def nearest(wanted: str, names: Iterable[str], most: int = 3) -> list[str]:
    """The names with the most similar spelling."""
    by_low = {name.lower(): name for name in names}
    found = difflib.get_close_matches(wanted.lower(), by_low, most, NEAR)
    return [by_low[low] for low in found]


def _near_slices(wanted: str, slices: Sequence[str], held: Sequence[Hit]) -> list[Hit]:
    known = {hit.title for hit in held}
    return [
        Hit("slice", one, "its predictions", "predictions", one)
        for one in nearest(wanted, slices)
        if one not in known
    ]


def _nothing(wanted: str, known: Known, commands: Sequence[Hit]) -> str:
    near = nearest(wanted, _titles(known, commands), 1)
    hint = f"; did you mean {near[0]}?" if near else "; times are read too, such as last 3 h"
    return f"nothing is called {wanted!r}{hint}"


def _titles(known: Known, commands: Sequence[Hit]) -> list[str]:
    return [hit.title for hit in (*known.hits, *commands)]


def _suggested(wanted: str, known: Known, commands: Sequence[Hit]) -> list[Hit]:
    near = set(nearest(wanted, _titles(known, commands), 5))
    return [hit for hit in (*known.hits, *commands) if hit.title in near][:5]
