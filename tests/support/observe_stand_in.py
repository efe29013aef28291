"""A small real gRPC server with the Observe service and a simulated fleet behind it:
`python tests/support/observe_stand_in.py` serves six on loopback and prints their addresses."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proto import observe_pb2, observe_pb2_grpc
from tests.support import fleet_story as story
from tests.support import story_judgements, story_payload

Context: TypeAlias = grpc.ServicerContext
TICK_S = 300  # between drift rows


class StandIn(observe_pb2_grpc.ObserveServicer):
    """One server of the fleet. `journal` holds what Watch sends, by cursor."""

    def __init__(
        self,
        who: story.Character,
        clock: Callable[[], float] = time.time,
        past_s: int = 900,
        width_s: int = 2,
        hertz: float = 2.0,
        speed: float = 0.0,  # of a simulated clock; 0: real time
    ) -> None:
        self.who = who
        self.clock = clock
        self.width_s = width_s
        self.hertz = hertz
        self.speed = speed
        self.began = clock()
        self.instance = f"{who.name}-{int(self.began * 1e6)}"
        self.journal: list[observe_pb2.WatchEvent] = []
        self.past: list[observe_pb2.WatchEvent] = []
        self.alerts: dict[str, observe_pb2.AlertRow] = {}
        self.silences: dict[str, observe_pb2.SilenceRow] = {}
        self.annotations: dict[str, observe_pb2.AnnotationRow] = {}
        self.requests = 100_000
        self.watching = 0
        self._turns = 0
        self._lock = threading.RLock()
        self.refuse_calls = False
        self._rng = np.random.default_rng(int(story.digest(who.name)[:8], 16))
        self._next_bucket = int(self.began - past_s) // width_s * width_s
        self._next_tick = int(self.began - past_s) // TICK_S * TICK_S
        self._tell_past(past_s)

    def now(self) -> float:
        return self.clock() + self.who.clock_ms / 1000

    def _stamp(self, event: observe_pb2.WatchEvent, cursor: int) -> observe_pb2.WatchEvent:
        event.cursor = cursor
        event.server_unix_ns = int(self.now() * 1e9)
        event.instance = self.instance
        return event

    def add(self, event: observe_pb2.WatchEvent) -> None:
        self.journal.append(self._stamp(event, len(self.journal) + 1))

    def advance(self) -> None:
        """Everything that happened until now."""
        with self._lock:
            self._advance(self.now())

    def _advance(self, now: float) -> None:
        while self._next_bucket + self.width_s <= now:
            ago = self.began - self._next_bucket + self.who.clock_ms / 1000
            for event in story.latency_rows(
                self.who, self._next_bucket, ago, self.width_s, self._rng
            ):
                if event.HasField("latency"):
                    self.requests += event.latency.requests
                self.add(event)
            self._next_bucket += self.width_s
        while self._next_tick <= now:
            for event in story_judgements.drift_rows(
                self.who, self._next_tick, self.began - self._next_tick, self._rng
            ):
                self.add(event)
            self._next_tick += TICK_S
        self._turns += 1
        if self.who.hostile and self._turns % 5 == 1:
            self._be_hostile()

    def _be_hostile(self) -> None:
        at_ms = int(self.now() * 1000)
        row = observe_pb2.LatencyRow(counts=[1, 2], bucket_unix_ms=at_ms, width_s=1)
        self.add(observe_pb2.WatchEvent(latency=row))
        self.add(observe_pb2.WatchEvent())
        self.add(
            observe_pb2.WatchEvent(
                alert=observe_pb2.AlertRow(
                    id="<b>x</b>",
                    severity="apocalyptic",
                    state="<i>firing</i>",
                    summary="<h1>owned</h1>" + "\u202e\x00\x1b[31m" + "Z" * 100_000,
                    opened_unix_ms=int(self.now() * 1000),
                )
            )
        )

    def _tell_past(self, past_s: int) -> None:
        """What History has and Watch does not repeat: everything before this server's start."""
        self.advance()
        began, who = self.began, self.who
        hour = int(began) // 3600 * 3600
        for event in story_judgements.feature_rows(who):
            self.add(event)
        for back in range(2):
            for event in story_judgements.profile_rows(who, hour - 3600 * back, 3000, self._rng):
                self.add(event)
        for back in range(12):
            for event in story_judgements.quality_rows(who, hour - 3600 * back):
                if event.HasField("quality"):
                    self.add(event)
        self._report_alerts(began)
        self.past, self.journal = self.journal, []
        for event in self.past:
            if event.WhichOneof("event") in ("feature", "alert"):
                self.add(observe_pb2.WatchEvent.FromString(event.SerializeToString()))
        self._drop_old_ticks()

    def _drop_old_ticks(self) -> None:
        for event in self.past:
            event.cursor = 0

    def _report_alerts(self, began: float) -> None:
        def ms(ago_s: float) -> int:
            return int((began - ago_s) * 1000)

        who = self.who
        activated = (400 if not who.odd_parts else 270, "activate", "")
        for ago, action, detail in (*who.deploys, activated):
            row = observe_pb2.DeployRow(
                at_unix_ms=ms(ago),
                action=action,
                stamp=story.stamp_of(who),
                stamp_name=f"triage-2026.11.23+{story.stamp_of(who)[:12]}",
                from_stamp=story.stamp_of(who, before_deploy=True),
                actor="deploy bot",
                detail=detail,
            )
            self.add(observe_pb2.WatchEvent(deploy=row))
        rows = []
        if who.base_ms > 50:
            rows.append(("latency", "critical", 155, "p99 812 ms over the 250 ms objective"))
            rows.append(("readiness", "warning", 160, who.reason))
        if who.drifts and who.name.startswith("gpu-01"):
            sentence = "audio.snr_db at site=b: excess KL 0.43 > 0.15, n 2,600"
            rows.append(("drift", "critical", 150, sentence))
        if "preprocessing" in who.odd_parts:
            rows.append(("skew", "high", 269, "preprocessing differs from the fleet"))
        for kind, severity, ago, sentence in rows:
            row = observe_pb2.AlertRow(
                id=f"{who.name}-{kind}",
                key=f"{kind}/{who.name}",
                kind=kind,
                severity=severity,
                state="firing",
                opened_unix_ms=ms(ago),
                last_unix_ms=ms(0),
                stamp=story.stamp_of(who),
                summary=sentence,
                features=["audio.snr_db", "out.confidence"] if kind == "drift" else [],
                slices=["site=b"] if kind == "drift" else [],
            )
            row.history.add(at_unix_ms=ms(ago + 60), from_state="ok", to_state="pending")
            row.history.add(at_unix_ms=ms(ago), from_state="pending", to_state="firing")
            self.alerts[row.id] = row
            self.add(observe_pb2.WatchEvent(alert=row))
        if who.name == "gpu-02.lon":
            row = observe_pb2.AlertRow(
                id="blip",
                kind="latency",
                severity="warning",
                state="resolved",
                opened_unix_ms=ms(480),
                last_unix_ms=ms(470),
                closed_unix_ms=ms(460),
                summary="p95 104 ms over 100 ms for 20 s",
                acknowledged_by="night shift",
            )
            self.alerts[row.id] = row
            self.add(observe_pb2.WatchEvent(alert=row))

    def _snapshot(self) -> observe_pb2.WatchEvent:
        found = story.snapshot(self.who, self.now(), self.requests)
        found.simulated_speed = self.speed
        return self._stamp(observe_pb2.WatchEvent(snapshot=found), len(self.journal))

    def Watch(
        self, request: observe_pb2.WatchRequest, context: Context
    ) -> Iterator[observe_pb2.WatchEvent]:
        self.advance()
        yield self._snapshot()
        if request.once:
            return
        known = request.instance == self.instance
        at = min(request.after_cursor, len(self.journal)) if known else 0
        self.watching += 1
        try:
            while context.is_active():
                self.advance()
                for event in self.journal[at:]:
                    yield event
                    at = event.cursor
                yield self._snapshot()
                due = time.monotonic() + 1 / self.hertz
                while context.is_active() and time.monotonic() < due:
                    time.sleep(min(0.05, 1 / self.hertz))
        finally:
            self.watching -= 1

    def History(
        self, request: observe_pb2.HistoryRequest, context: Context
    ) -> Iterator[observe_pb2.WatchEvent]:
        yield from self.past

    def Slices(
        self, request: observe_pb2.SlicesRequest, context: Context
    ) -> observe_pb2.SlicesResponse:
        found = story_judgements.quality_rows(self.who, int(self.now()))
        return observe_pb2.SlicesResponse(slices=[e.slice for e in found if e.HasField("slice")])

    def Samples(
        self, request: observe_pb2.SamplesRequest, context: Context
    ) -> observe_pb2.SamplesResponse:
        wanted = set(request.prediction_ids)
        answer = observe_pb2.SamplesResponse()
        for event in (*self.past, *self.journal):
            if event.HasField("prediction") and event.prediction.prediction_id in wanted:
                sample = answer.samples.add(row=event.prediction)
                if request.with_payload and event.prediction.payload_kept:
                    sample.example = story_payload.payload(event.prediction.prediction_id)
        return answer

    def Acknowledge(
        self, request: observe_pb2.AcknowledgeRequest, context: Context
    ) -> observe_pb2.AlertAction:
        if self.refuse_calls:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "role viewer may not do this")
        alert = self.alerts.get(request.alert_id)
        if alert is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no alert {request.alert_id}")
            raise AssertionError("abort raises")
        alert.acknowledged_by = "" if request.undo else request.actor
        alert.acknowledged_note = "" if request.undo else request.note
        alert.history.add(
            at_unix_ms=int(self.now() * 1000),
            from_state=alert.state,
            to_state="acknowledged",
            actor=request.actor,
            detail=request.note,
        )
        self.add(observe_pb2.WatchEvent(alert=alert))
        return observe_pb2.AlertAction(alert=alert)

    def Annotate(
        self, request: observe_pb2.AnnotateRequest, context: Context
    ) -> observe_pb2.AnnotationRow:
        with self._lock:
            row = observe_pb2.AnnotationRow(
                id=request.id,
                at_unix_ms=request.at_unix_ms,
                to_unix_ms=request.to_unix_ms or request.at_unix_ms,
                text=request.text,
                actor=request.actor,
            )
            if request.remove:
                row.CopyFrom(self.annotations[request.id])
                row.removed = True
            self.annotations[request.id] = row
            self.add(observe_pb2.WatchEvent(annotation=row))
            return row

    def Silence(
        self, request: observe_pb2.SilenceRequest, context: Context
    ) -> observe_pb2.AlertAction:
        if request.end_id:
            row = self.silences.pop(request.end_id, observe_pb2.SilenceRow(id=request.end_id))
            row.until_unix_ms = int(self.now() * 1000)
        else:
            row = observe_pb2.SilenceRow(
                id=f"silence-{len(self.silences) + 1}",
                matcher=request.matcher,
                until_unix_ms=request.until_unix_ms,
                actor=request.actor,
                reason=request.reason,
            )
            self.silences[row.id] = row
        self.add(observe_pb2.WatchEvent(silence=row))
        return observe_pb2.AlertAction(silence=row)


class Fleet:
    """Stand-ins on free loopback ports. Served by threads: two asyncio loops in one process is one
    more than gRPC can bear (grpc/grpc#25364), and the console needs its own."""

    def __init__(self, servicers: Sequence[StandIn]) -> None:
        self.servicers = tuple(servicers)
        self.addresses: list[str] = []
        self._servers: list[grpc.Server] = []

    def __enter__(self) -> Fleet:
        for servicer in self.servicers:
            server, port = self._serve(servicer, 0)
            self._servers.append(server)
            self.addresses.append(f"127.0.0.1:{port}")
        return self

    def __exit__(self, *error: object) -> None:
        for index in range(len(self._servers)):
            self.kill(index)

    def kill(self, index: int) -> None:
        """The server is gone at once, as if its machine were."""
        self._servers[index].stop(None).wait(5)

    def revive(self, index: int, servicer: StandIn | None = None) -> None:
        """The same port again, with the same journal or with another life."""
        port = int(self.addresses[index].rpartition(":")[2])
        self._servers[index], _ = self._serve(servicer or self.servicers[index], port)

    @staticmethod
    def _serve(servicer: StandIn, port: int) -> tuple[grpc.Server, int]:
        threads = ThreadPoolExecutor(12, thread_name_prefix="stand-in")
        server = grpc.server(threads, options=(("grpc.so_reuseport", 0),))
        observe_pb2_grpc.add_ObserveServicer_to_server(servicer, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        return server, bound


def main() -> None:
    """Serve the story until interrupted; the last server dies after three seconds."""
    with Fleet([StandIn(who) for who in story.FLEET]) as fleet:
        sys.stdout.write(" ".join(("console", *fleet.addresses)) + "\n")
        sys.stdout.flush()
        try:
            time.sleep(3)
            fleet.kill(len(fleet.addresses) - 1)
            time.sleep(86_400)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
