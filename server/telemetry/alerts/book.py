"""The alert book: what is wrong, since when, and who has acknowledged it.

    ok -> pending -> firing -> resolved        acknowledged and silenced lie across it

A pure state machine over findings: no clock, no database; `now` is unix seconds. Every transition
is appended to the alert's history and passed to `notify`. A page goes out when an alert starts to
fire, gets worse, or resolves. While an alert is silenced, only its resolution sends a page, and so
does the end of the silence if the alert still fires then.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from server.telemetry.errors import TooMany, UnknownAlert
from server.telemetry.filters import parse_matcher, silences
from server.telemetry.findings import SEVERITIES, Finding
from server.telemetry.rows import AlertRow, AlertTransition, SilenceRow

FLAP_MEMORY_S = 86400.0  # re-opening within a day is flapping
MAX_FLAPS = 4
FLAP_HOLD_S = 600.0  # the shortest hold, which flapping doubles
DEPLOY_GRACE_S = 900.0  # no alert opens while a new stamp settles
RESOLVED_KEPT = 200
MOST_SILENCES = 200  # each alert is compared with all of them
MOST_STEPS = 100  # steps kept in the history of one alert: the first and the newest


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of an alert; `page`: it sends a page."""

    alert: AlertRow
    step: AlertTransition
    page: bool


@dataclass(slots=True)
class _Track:
    """What a row does not show: since when it has been ok, how often it came back."""

    right_since: float | None = None
    hold_s: float = 0.0
    flaps: int = 0


def _with(row: AlertRow, step: AlertTransition) -> AlertRow:
    """The row with one more step in its history, which is kept, sent and stored as a whole."""
    steps = (*row.history, step)
    if len(steps) > MOST_STEPS:
        steps = (steps[0], *steps[1 - MOST_STEPS :])
    return replace(row, history=steps)


class AlertBook:
    def __init__(self, notify: Callable[[Transition], None]) -> None:
        self._notify = notify
        self._open: dict[str, AlertRow] = {}  # by key
        self._closed: dict[str, AlertRow] = {}  # by id, oldest first
        self._tracks: dict[str, _Track] = {}
        self._last_closed: dict[str, tuple[float, int]] = {}  # key -> (when, flaps)
        self._silences: dict[str, SilenceRow] = {}
        self._deployed_at = -DEPLOY_GRACE_S

    def update(self, findings: Iterable[Finding], now: float) -> None:
        """Apply the current findings; alerts whose key is not among them stay as they are."""
        self._end_silences(now)
        for finding in findings:
            row = self._open.get(finding.key)
            if finding.severity:
                self._wrong(row, finding, now)
            elif row is not None:
                self._right(row, finding, now)

    def deployed(self, now: float, kinds: tuple[str, ...] = ("drift", "latency", "value")) -> None:
        """A new stamp took over: alerts about the old one end, and new ones wait a while."""
        self._deployed_at = now
        for row in list(self._open.values()):
            if row.kind in kinds and row.stamp:
                self._close(row, now, "another stamp took over")

    def retire(self, stamp: str, now: float, why: str) -> None:
        for row in list(self._open.values()):
            if row.stamp == stamp:
                self._close(row, now, why)

    def _wrong(self, row: AlertRow | None, finding: Finding, now: float) -> None:
        # After a backward step of the clock the grace period ends, instead of lasting a day.
        in_grace = 0 <= now - self._deployed_at < DEPLOY_GRACE_S
        waits = in_grace and finding.kind == "drift"
        if row is None:
            row = self._begin(finding, now)
        self._tracks[row.key].right_since = None
        self._tracks[row.key].hold_s = finding.hold_s
        row = replace(
            row,
            last_unix_ms=int(now * 1000),
            summary=finding.summary,
            features=finding.features,
            slices=finding.slices,
            silenced=self._silenced(row, finding),
        )
        self._open[row.key] = row
        if not finding.confirmed or waits:
            if row.state == "pending":
                self._open[row.key] = replace(row, severity=finding.severity)
            return
        if row.state == "pending":
            self._step(
                replace(row, state="firing", severity=finding.severity), "pending", now, finding
            )
        elif SEVERITIES.index(finding.severity) > SEVERITIES.index(row.severity):
            worse = replace(
                row, severity=finding.severity, acknowledged_by="", acknowledged_note=""
            )
            self._step(worse, "firing", now, finding, f"{row.severity} -> {finding.severity}")

    def _begin(self, finding: Finding, now: float) -> AlertRow:
        opened = int(now * 1000)
        closed, flaps = self._last_closed.get(finding.key, (0.0, 0))
        flaps = min(flaps + 1, MAX_FLAPS) if now - closed < FLAP_MEMORY_S else 0
        self._tracks[finding.key] = _Track(flaps=flaps)
        row = AlertRow(
            id=f"{opened:011x}{zlib.crc32(finding.key.encode()):08x}",
            key=finding.key,
            kind=finding.kind,
            severity=finding.severity,
            state="pending",
            opened_unix_ms=opened,
            last_unix_ms=opened,
            closed_unix_ms=0,
            stamp=finding.stamp,
            summary=finding.summary,
        )
        step = AlertTransition(opened, "ok", "pending", "server", finding.summary)
        return replace(row, history=(step,))

    def _right(self, row: AlertRow, finding: Finding, now: float) -> None:
        track = self._tracks[row.key]
        if row.state == "pending":
            self._close(row, now, "gone before it was confirmed")
            return
        if track.right_since is None or track.right_since > now:
            track.right_since = now
        hold = max(track.hold_s, finding.hold_s)
        if track.flaps:
            hold = max(hold, FLAP_HOLD_S) * 2**track.flaps
        if now - track.right_since >= hold:
            since = now - track.right_since
            self._close(row, now, f"right for {since:.0f} s" if since else "right again")

    def _close(self, row: AlertRow, now: float, why: str) -> None:
        track = self._tracks.pop(row.key)
        del self._open[row.key]
        if row.state == "firing":
            self._last_closed[row.key] = (now, track.flaps)
        closed = replace(row, state="resolved", closed_unix_ms=int(now * 1000))
        step = AlertTransition(int(now * 1000), row.state, "resolved", "server", why)
        closed = replace(closed, history=(*row.history, step))
        if row.state == "firing":
            self._closed[row.id] = closed
            while len(self._closed) > RESOLVED_KEPT:
                del self._closed[next(iter(self._closed))]
        self._notify(Transition(closed, step, row.state == "firing"))

    def _step(
        self, row: AlertRow, before: str, now: float, finding: Finding, detail: str = ""
    ) -> None:
        step = AlertTransition(
            int(now * 1000), before, row.state, "server", detail or finding.summary
        )
        row = _with(row, step)
        self._open[row.key] = row
        self._notify(Transition(row, step, not row.silenced))

    def acknowledge(
        self, alert_id: str, actor: str, note: str, now: float, undo: bool = False
    ) -> AlertRow:
        """An operator is working on it (or, with `undo`, no longer). Raises UnknownAlert."""
        row = self._find(alert_id)
        state = row.state
        row = replace(
            row,
            acknowledged_by="" if undo else actor,
            acknowledged_note="" if undo else note,
        )
        word = "unacknowledged" if undo else "acknowledged"
        step = AlertTransition(int(now * 1000), state, state, actor, f"{word}: {note}".rstrip(": "))
        row = _with(row, step)
        self._put(row)
        self._notify(Transition(row, step, page=False))
        return row

    def silence(
        self, matcher: str, until: float, actor: str, reason: str, now: float
    ) -> SilenceRow:
        """Send no pages for matching alerts until then. Raises BadFilter for an empty matcher,
        TooMany, and ValueError if the silence would not end or has ended."""
        parse_matcher(matcher)
        if not now < until < now + 366 * 86400:
            raise ValueError("the end of a silence must lie in the future and within 366 days")
        if len(self._silences) >= MOST_SILENCES:
            raise TooMany(f"there are {MOST_SILENCES} silences, the most at a time: end one first")
        made = int(now * 1000)
        key = f"{matcher}\0{actor}\0{until}"
        row = SilenceRow(
            f"{made:011x}{zlib.crc32(key.encode()):08x}", matcher, int(until * 1000), actor, reason
        )
        self._silences[row.id] = row
        self._resilence(now)
        return row

    def end_silence(self, silence_id: str, now: float) -> SilenceRow:
        """Raises UnknownAlert."""
        if silence_id not in self._silences:
            raise UnknownAlert(f"no silence {silence_id}")
        row = replace(self._silences.pop(silence_id), until_unix_ms=int(now * 1000))
        self._resilence(now)
        return row

    def rows(self) -> list[AlertRow]:
        """Open alerts, worst first, then the latest resolved ones."""
        worst = sorted(
            self._open.values(),
            key=lambda r: (r.state != "firing", -SEVERITIES.index(r.severity), r.opened_unix_ms),
        )
        return worst + list(reversed(self._closed.values()))

    def silences(self) -> list[SilenceRow]:
        return list(self._silences.values())

    def restore(self, rows: Iterable[AlertRow], silences: Iterable[SilenceRow]) -> None:
        """Restore after a restart: firing alerts continue to fire, without a new page."""
        self._silences = {row.id: row for row in silences}
        for row in sorted(rows, key=lambda r: r.opened_unix_ms):
            row = replace(row, silenced=self._silenced(row))
            if row.state == "firing":
                self._open[row.key] = row
                self._tracks[row.key] = _Track()
            elif row.state == "resolved":
                self._closed[row.id] = row
                self._last_closed[row.key] = (row.closed_unix_ms / 1000, 0)

    def _find(self, alert_id: str) -> AlertRow:
        for row in (*self._open.values(), *self._closed.values()):
            if row.id == alert_id:
                return row
        raise UnknownAlert(f"no alert {alert_id}")

    def _put(self, row: AlertRow) -> None:
        if row.state == "resolved":
            self._closed[row.id] = row
        else:
            self._open[row.key] = row

    def _end_silences(self, now: float) -> None:
        ended = [s for s in self._silences.values() if s.until_unix_ms <= now * 1000]
        for row in ended:
            del self._silences[row.id]
        if ended:
            self._resilence(now)

    def _silenced(self, row: AlertRow, finding: Finding | None = None) -> bool:
        if finding is not None:
            row = replace(row, features=finding.features, slices=finding.slices)
        return any(silences(s.matcher, row) for s in self._silences.values())

    def _resilence(self, now: float) -> None:
        for key, row in list(self._open.items()):
            silenced = self._silenced(row)
            self._open[key] = replace(row, silenced=silenced)
            if row.silenced and not silenced and row.state == "firing":
                step = AlertTransition(
                    int(now * 1000), "firing", "firing", "server", "a silence ended"
                )
                self._open[key] = replace(self._open[key], history=(*row.history, step))
                self._notify(Transition(self._open[key], step, page=True))
