"""The alert book with its surroundings: its steps go to the store, the change feed and the pager.

Runs on the telemetry thread. Steps that the store does not take yet wait here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server.telemetry.alerts.book import AlertBook, Transition
from server.telemetry.change_feed import ChangeFeed
from server.telemetry.findings import Finding
from server.telemetry.record import Record
from server.telemetry.rows import AlertRow, DeployRow, SilenceRow
from server.telemetry.store.store import Store

JUDGED = ("drift", "structural", "value")
# After these deploys, the alerts of the previous stamp end.
OVER = ("activate", "rollback", "canary-promoted")

# Runs work on the store in a transaction; False if the store refused it.
Try = Callable[[Callable[[], object]], bool]


@dataclass(eq=False)
class AlertService:
    """`store` is called each time, as the store may have been replaced. `stepped` is called for
    every step."""

    store: Callable[[], Store]
    attempt: Try
    changes: ChangeFeed
    stepped: Callable[[Transition], None]

    def __post_init__(self) -> None:
        self.book = AlertBook(self._notify)
        # The newest form of each alert that is not stored yet; it contains all steps.
        self._waiting: dict[str, AlertRow] = {}
        self._firing: list[tuple[str, tuple[str, ...]]] = []  # stamp, slices

    def restore(self, now: float) -> None:
        stored = self.store().judgements
        self.book.restore(stored.alerts(), stored.silences(int(now * 1000)))
        self.changes.note([*reversed(self.book.rows()), *self.book.silences()])

    def report(self, findings: Iterable[Finding], now: float) -> None:
        self.book.update(findings, now)
        self.changes.note(row for row in reversed(self.book.rows()) if row.state != "resolved")
        self._firing = [
            (row.stamp, row.slices)
            for row in self.book.rows()
            if row.state == "firing" and row.kind in ("drift", "structural")
        ]
        self.keep()

    def retire(self, serving: set[str], now: float) -> None:
        """End alerts about stamps that no longer have traffic."""
        for row in self.book.rows():
            if row.state != "resolved" and row.kind in JUDGED and row.stamp not in serving:
                self.book.retire(row.stamp, now, "this stamp has had no traffic for a day")

    def concerns(self, record: Record) -> bool:
        """Whether a drift alert is firing for one of the record's slices."""
        for stamp, slices in self._firing:
            if stamp == record.stamp and (
                not slices or any(f"{k}={v}" in slices for k, v in record.slices.items())
            ):
                return True
        return False

    def acknowledge(self, alert_id: str, actor: str, note: str, undo: bool, now: float) -> AlertRow:
        row = self.book.acknowledge(alert_id, actor, note, now, undo)
        self.keep()
        return row

    def silence(
        self, matcher: str, until: float, actor: str, reason: str, now: float
    ) -> SilenceRow:
        return self._shown(self.book.silence(matcher, until, actor, reason, now))

    def end_silence(self, silence_id: str, now: float) -> SilenceRow:
        return self._shown(self.book.end_silence(silence_id, now))

    def _shown(self, row: SilenceRow) -> SilenceRow:
        self.attempt(lambda: self.store().judgements.put_silence(row))
        self.changes.note([row, *self.book.rows()])
        self.keep()
        return row

    def deployed(self, row: DeployRow, now: float) -> None:
        if row.action in OVER:
            self.book.deployed(now)
        self.changes.note([row])
        self.attempt(lambda: self.store().judgements.put_deploy(row))
        self.keep()

    def keep(self) -> None:
        """Try to store the waiting steps."""

        def work() -> None:
            for alert in self._waiting.values():
                self.store().judgements.put_alert(alert)

        if self._waiting and self.attempt(work):
            self._waiting.clear()

    def _notify(self, transition: Transition) -> None:
        # An alert that was never confirmed is visible while it lasts, and is not stored.
        if transition.step.from_state != "pending" or transition.step.to_state != "resolved":
            self._waiting[transition.alert.id] = transition.alert
        self.changes.note([transition.alert])
        self.stepped(transition)
