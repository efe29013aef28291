"""The incident sheet: one HTML file with everything in it, for the post-mortem. It opens in any
browser, loads nothing and runs nothing: all text from a server is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from console.looks import hosts
from console.looks.changes import KINDS, WhatChanged
from console.state import command_lines, next_steps
from console.state.access import ConnectionAccess
from console.state.dashboard import Board
from console.state.domain import HostSnapshot
from console.state.timetext import clock_text, iso
from console.state.units import milliseconds, share

MOST_EVENTS = 100
BEFORE_S = 3600.0  # what changed is compared with the window this long before
CHANGES = ("deploy", "link", "action")
_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; color: #18202a; }
h1 { border-left: 6px solid #c3182b; padding-left: .5em; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: 2px 10px 2px 0;
border-bottom: 1px solid #cfd6dd; vertical-align: top; } img { max-width: 100%; }
code, pre { background: #eef1f4; padding: 1px 4px; white-space: pre-wrap; }
"""


def html(
    board: Board,
    pictures: Sequence[tuple[str, bytes]],
    command: str,
    access: ConnectionAccess,
    link: str = "",
    changed: WhatChanged | None = None,
) -> str:
    """`pictures` are (name, PNG). `link` opens the view where the console is installed. `changed`
    ranks what explains the rise of bad rows. Times are UTC."""
    state = board.fleet_state
    parts = [
        f"<h1>{escape(state.state)}: {escape(state.sentence)}</h1>",
        f"<p>Seen {iso(board.made_s)}; window {iso(board.from_s)} to {iso(board.to_s)}; UTC.</p>",
        _table(
            ("problem", "in one sentence", "next", "runbook"),
            (
                (m.text, m.detail, next_steps.next_of(m), next_steps.address("", m.kind))
                for m in state.messages
                if m.wants_action
            ),
        ),
        "<h2>Figures</h2>",
        _figures(board),
        "<h2>Servers</h2>",
        _servers(board),
        "<h2>What changed</h2>",
        _changed(changed),
        "<h2>What changed before</h2>",
        _events(board, CHANGES, board.from_s - BEFORE_S),
        "<h2>Notes</h2>",
        _notes(board),
        "<h2>Alerts</h2>",
        _alerts(board),
        "<h2>All events of the window</h2>",
        _events(board, (), board.from_s),
        "<h2>Commands</h2>",
        "<pre>" + "\n".join(map(escape, _commands(board, command, access, link))) + "</pre>",
        "<h2>Pictures</h2>",
        *(
            f'<h3>{escape(name)}</h3><img alt="{escape(name)}" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            for name, png in pictures
        ),
    ]
    title = escape(f"Incident {iso(board.made_s)}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>" + "\n".join(parts) + "</html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    found = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    if not found:
        return "<p>none</p>"
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><tr>{heads}</tr>" + "".join(f"<tr>{row}</tr>" for row in found) + "</table>"


def _figures(board: Board) -> str:
    found = board.latency
    if found is None or not found.requests:
        return "<p>no requests in this window</p>"
    p50, p95, p99 = (milliseconds(value) for value in found.total)
    slo = milliseconds(found.slo_ms) if found.slo_ms else "none"
    row = (f"{found.requests:,}", p50, p95, p99, slo)
    return _table(("requests", "p50", "p95", "p99", "SLO"), [row])


def _servers(board: Board) -> str:
    head = ("server", "address", "state", "why", "stamp", "differs from the fleet", "host")
    odd = {line.address: line for line in board.skew}
    rows = []
    for line in board.servers:
        skew = odd.get(line.address)
        differs = [f"{w}: {here}, fleet {there}" for w, here, there in skew.details] if skew else []
        stamp = line.snapshot.stamp_name if line.snapshot is not None else "unknown"
        found = line.snapshot.host if line.snapshot is not None else HostSnapshot()
        host = "; ".join(text for text, _ in hosts.lines(found))
        about = (line.name, line.address, line.state, line.why)
        rows.append((*about, stamp, "; ".join(differs), host))
    return _table(head, rows)


def _events(board: Board, kinds: Sequence[str], from_s: float) -> str:
    found = [
        (clock_text(event.at_s, "%Y-%m-%d %H:%M:%S"), event.severity, event.text)
        for event in reversed(board.timeline_events)
        if from_s <= event.at_s <= board.to_s and (not kinds or event.kind in kinds)
    ]
    return _table(("UTC", "severity", "what"), found[-MOST_EVENTS:])


def _alerts(board: Board) -> str:
    rows = []
    for line in board.alerts:
        if not line.open and line.closed_s < board.from_s:
            continue
        until = clock_text(line.closed_s) if line.closed_s else "open"
        known = f"{line.row.acknowledged_by}: {line.row.acknowledged_note}".strip(": ")
        at = clock_text(line.opened_s, "%Y-%m-%d %H:%M:%S")
        rows.append((at, until, line.name, line.row.severity, line.row.summary, known))
    head = ("opened", "closed", "server", "severity", "summary", "acknowledged")
    return _table(head, rows[:MOST_EVENTS])


def _changed(found: WhatChanged | None) -> str:
    """A table ranked by how much of the rise each entry explains: its part of the rise minus its
    share of the rows before."""
    if found is None:
        return "<p>not known: the cache did not answer in time</p>"
    sentences = "".join(f"<li>{escape(text)}</li>" for text in found.sentences)
    spans = " against ".join(
        f"{iso(low)} to {iso(high)}" for low, high in (found.after, found.before)
    )
    rows = [
        (
            share(line.explains, 0),
            KINDS.get(line.what, line.what),
            line.of,
            line.text,
        )
        for line in found.findings
    ]
    head = ("explains", "what", "which", "how it moved")
    return f"<p>{escape(spans)}</p><ul>{sentences}</ul>{_table(head, rows)}"


def _notes(board: Board) -> str:
    rows = [
        (clock_text(note.at_s, "%Y-%m-%d %H:%M:%S"), note.actor, note.text)
        for note in reversed(board.notes)
        if note.to_s >= board.from_s - BEFORE_S and note.at_s <= board.to_s
    ]
    return _table(("UTC", "who", "note"), rows)


def _commands(board: Board, command: str, access: ConnectionAccess, link: str) -> list[str]:
    return [
        command,
        *([link] if link else []),
        *(command_lines.status(line.address, access) for line in board.servers[:20]),
    ]
