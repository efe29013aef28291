"""Builds one `Board` from the open cache and the state of the links. Single-threaded: belongs to
the thread of board_thread.py."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from console.cache import compare, drift, hosts, rows, timeline
from console.cache.fleet import line_of, slo_ms_of
from console.cache.interned import InternedTexts
from console.cache.latency import LatencyRows, clocks_of, newest_row_s
from console.cache.trouble_since import TroubleSince
from console.state import axis, causes, events, firing, skew, status, status_messages
from console.state.dashboard import (
    Board,
    CacheUsage,
    DriftLine,
    HostColumns,
    QualityLine,
    ReferenceComparison,
    TimelineEvent,
    View,
)
from console.state.domain import Link, ServerRecord

T = TypeVar("T")


def empty_board(view: View, now_s: float, links: Mapping[str, Link] | None, trouble: str) -> Board:
    """The board before there is a cache: it lists the servers asked for, about which nothing is
    known yet."""
    servers = [ServerRecord(link, None) for link in (links or {}).values()]
    lines = tuple(line_of(server, now_s, {}, {}) for server in servers)
    state = status.fleet_state(lines, (), (), (), now_s)
    end = view.end_s or now_s
    return Board(
        view, now_s, end - view.window_s, end, state, lines, usage=CacheUsage(trouble=trouble)
    )


class BoardBuilder:
    """Holds what the thread keeps between two boards."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self._names = InternedTexts(db)
        self._latency = LatencyRows()
        self._held: dict[str, tuple[object, object]] = {}
        self._links: dict[str, Link] = {}
        self._link_news: list[TimelineEvent] = []
        self._since = TroubleSince()

    def board(
        self,
        view: View,
        now_s: float,
        links: Mapping[str, Link] | None,
        dirty: frozenset[str],
    ) -> Board:
        """One board, read in one transaction so that all panels show the same moment."""
        self.db.execute("BEGIN")
        try:
            return self._board(view, now_s, links, dirty)
        finally:
            self.db.execute("COMMIT")

    def _board(
        self,
        view: View,
        now_s: float,
        links: Mapping[str, Link] | None,
        dirty: frozenset[str],
    ) -> Board:
        for table in dirty:
            self._held.pop(table, None)
        links, axis_s, speed = axis.of(links, now_s)
        now_s, ahead_s = axis_s, axis_s - now_s
        servers = self._servers(links)
        shifts_s = {address: server.link.shift_s for address, server in servers.items()}
        span = self._span(view, now_s, links, shifts_s)
        slo_ms = slo_ms_of(servers, view.scope)
        from_ms, to_ms = (int(moment * 1000) for moment in span)
        self._latency.refresh(self.db, from_ms, to_ms, clocks_of(self._names, shifts_s))
        shown, latencies = timeline.latency(
            self._latency, self._names, view, span, shifts_s, slo_ms, now_s
        )
        deploys = self._once("deploy", (), lambda: rows.deploys(self.db, self._names))
        skewed = skew.compare(list(servers.values()), deploys, now_s, view.expected_stamp)
        drifting, hours = self._drift(view, span, servers, now_s)
        actions = self._once("action", (), lambda: rows.actions(self.db))
        silences = rows.silences(self.db, self._names, now_s * 1000)
        found = self._once("alert", (), lambda: rows.alerts(self.db, self._names))
        pending = {(a.server, a.target): a.kind for a in actions if a.state == "waiting"}
        alerts = events.alert_lines(found, servers, silences, pending, now_s)
        written = self._once("annotation", (), lambda: rows.written_notes(self.db, self._names))
        notes = events.notes_of(written, actions, servers)
        drifting = firing.marked(drifting, alerts, lambda a: servers[a].name if a in servers else a)
        odd = {line.address: line for line in skewed}
        lines = tuple(line_of(s, now_s, latencies, odd) for s in servers.values())
        lines = self._since.marked(lines, deploys, now_s)
        burns = self._burns(servers, latencies, now_s, speed) if view.live else ()
        known = causes.causes_of(skewed, deploys, servers)
        state = status.fleet_state(lines, burns, skewed, alerts, now_s, known, deploys)
        return Board(
            view=view,
            made_s=now_s,
            from_s=span[0],
            to_s=span[1],
            fleet_state=state,
            servers=lines,
            latency=shown,
            host=self._host(view, span, shifts_s) if view.host else None,
            drift=drifting,
            drift_span=hours,
            comparison=self._comparison(view, span, drifting),
            skew=skewed,
            alerts=alerts,
            silences=tuple(silences),
            actions=tuple(actions),
            timeline_events=events.timeline_events(
                alerts, deploys, servers, self._link_news, actions, ahead_s, notes
            ),
            deploys=tuple(deploys),
            notes=notes,
            quality=self._quality(servers, now_s),
            slices=tuple(self._once("slice", (), lambda: rows.slices(self.db, self._names))),
            offline=links is None,
            ahead_s=ahead_s,
            speed=speed,
        )

    def _once(self, table: str, key: object, read: Callable[[], T]) -> T:
        """The value read last time, unless the table was written or the key has changed."""
        held = self._held.get(table)
        if held is not None and held[0] == key:
            return held[1]  # type: ignore[return-value]
        value = read()
        self._held[table] = (key, value)
        return value

    def _servers(self, links: Mapping[str, Link] | None) -> dict[str, ServerRecord]:
        """The servers asked for, in their order. Offline: every server the cache knows."""
        known = rows.servers(self.db)
        if links is None:
            return known
        found = {}
        for address, link in links.items():
            old = known.get(address)
            if old is not None and not link.heard_s:
                link = replace(link, heard_s=old.link.heard_s)
            unknown = link.offset_ms != link.offset_ms and link.simulated is None
            if old is not None and unknown:
                link = replace(link, offset_ms=old.link.offset_ms)
            found[address] = ServerRecord(link, old.snapshot if old is not None else None)
            news = events.of_link(self._links.get(address), link, found[address].name, link.since_s)
            if news is not None:
                self._link_news = [*self._link_news[-199:], news]
            self._links[address] = link
        return found

    def _span(
        self,
        view: View,
        now_s: float,
        links: Mapping[str, Link] | None,
        shifts_s: Mapping[str, float],
    ) -> tuple[float, float]:
        if view.end_s is not None:
            return view.end_s - view.window_s, view.end_s
        end = now_s
        if not any(link.state in ("live", "catching up") for link in (links or {}).values()):
            # No server is connected: a moving axis would push the last known minutes out of sight.
            newest_s = newest_row_s(self.db, clocks_of(self._names, shifts_s))
            if newest_s < now_s - view.window_s * 0.3:
                end = newest_s + view.window_s * 0.04
        return end - view.window_s, end

    def _drift(
        self,
        view: View,
        span: tuple[float, float],
        servers: Mapping[str, ServerRecord],
        now_s: float,
    ) -> tuple[tuple[DriftLine, ...], tuple[float, float] | None]:
        if view.brush is not None:
            key = (drift.hours_of(*view.brush), view.measure, "brush")
            return self._once(
                "profile",
                key,
                lambda: drift.in_window(
                    self.db, self._names, self._features(), view.brush or span, view.measure
                ),
            )
        stamps = {
            address: server.snapshot.stamp
            for address, server in servers.items()
            if server.snapshot is not None and view.live
        }
        until_ms = (now_s + 60 if view.live else span[1]) * 1000
        at = "live" if view.live else str(until_ms)
        key = (view.measure, at, tuple(sorted(stamps.items())))  # type: ignore[assignment]
        lines = self._once(
            "drift",
            key,
            lambda: drift.newest(self.db, self._names, until_ms, stamps, view.measure),
        )
        if lines:
            return lines, None
        # A server evaluates every few minutes; until its first tick the scores come from profiles.
        hours = drift.hours_of(span[1] - 1, span[1])
        return self._once(
            "profile",
            (hours, view.measure, "no tick yet"),
            lambda: drift.in_window(self.db, self._names, self._features(), hours, view.measure),
        )

    def _host(
        self, view: View, span: tuple[float, float], shifts_s: Mapping[str, float]
    ) -> HostColumns:
        column = int(span[1] // timeline.column_width_s(view, hosts.ROW_S))
        key = (view.scope, view.window_s, view.columns, column)
        return self._once(
            "host", key, lambda: hosts.columns(self.db, self._names, view, span, shifts_s)
        )

    def _features(self) -> drift.Features:
        return self._once("feature", (), lambda: drift.features(self.db))

    def _comparison(
        self, view: View, span: tuple[float, float], lines: tuple[DriftLine, ...]
    ) -> ReferenceComparison | None:
        chosen = next((line for line in lines if line.key == view.drift_key), None)
        if chosen is None and view.drift_key is None and lines:
            chosen = lines[0]
        key = view.drift_key or (chosen.key if chosen is not None else None)
        if key is None:
            return None
        window = view.brush or (span[1] - max(view.window_s, 3600), span[1])
        stamp = chosen.row.stamp if chosen is not None else ""
        held = self._held.get("comparison")
        asked = (key, drift.hours_of(*window), stamp)
        if held is not None and held[0] == asked and time.monotonic() - held[2] < 2:  # type: ignore[misc]
            return held[1]  # type: ignore[return-value]
        found = compare.comparison(self.db, self._names, self._features(), key, window, stamp)
        self._held["comparison"] = (asked, found, time.monotonic())  # type: ignore[assignment]
        return found

    def _burns(
        self,
        servers: Mapping[str, ServerRecord],
        latencies: Mapping[str, timeline.ServerLatency],
        now_s: float,
        speed: float,
    ) -> tuple[status_messages.Burn, ...]:
        found = []
        for address, server in servers.items():
            slo = server.snapshot.slo_ms if server.snapshot is not None else 0.0
            latency = latencies.get(address)
            if (
                latency is None
                or not slo
                or not latency.p99_ms > slo
                or now_s - latency.newest_s > 120 * speed
            ):
                continue
            since = timeline.above_since(
                self._latency, self._names.find(address), server.link.shift_s, slo
            )
            found.append(status_messages.Burn(address, server.name, latency.p99_ms, slo, since))
        return tuple(found)

    def _quality(
        self, servers: Mapping[str, ServerRecord], now_s: float
    ) -> tuple[QualityLine, ...]:
        found = self._once(
            "quality",
            int(now_s // 600),
            lambda: rows.quality(
                self.db, self._names, (now_s - 7 * 86400) * 1000, (now_s + 3600) * 1000
            ),
        )
        return tuple(
            QualityLine(
                row,
                address,
                servers[address].name if address in servers else address,
                row.bucket_unix_s,
            )
            for address, row in found
        )
