"""A console's calls to servers besides the stream: actions, kept payloads; and their errors."""

from __future__ import annotations

from collections.abc import Callable

from console.feed.hub import Hub
from console.state.domain import Action
from server.telemetry.rows import AlertRow
from tests.console.test_console_feed import stand_in
from tests.support.kept_rows import Kept, until
from tests.support.observe_stand_in import Fleet


def action(server: str, target: str, kind: str = "acknowledge", **more: object) -> Action:
    values = {
        "id": 1,
        "server": server,
        "kind": kind,
        "target": target,
        "actor": "kim",
        "note": "n",
    }
    return Action(**{**values, **more})  # type: ignore[arg-type]


def test_actions_reach_the_server_and_its_refusal_comes_back(
    sink: Kept, start: Callable[..., Hub]
) -> None:
    servicer = stand_in(3)
    ended: list[tuple[str, str]] = []
    with Fleet([servicer]) as fleet:
        address = fleet.addresses[0]
        hub = start(fleet.addresses)
        until(lambda: bool(hub.links()) and hub.links()[address].state == "live")

        def done(_: Action, state: str, detail: str) -> None:
            ended.append((state, detail))

        hub.act(action(address, "gpu-01.fra-latency"), done)
        until(lambda: len(ended) == 1)
        alert = servicer.alerts["gpu-01.fra-latency"]
        assert (alert.acknowledged_by, alert.acknowledged_note) == ("kim", "n")
        until(lambda: any(isinstance(r, AlertRow) and r.acknowledged_by == "kim"
                          for r in sink.rows(AlertRow)))  # fmt: skip
        hub.act(action(address, "kind=latency", "silence", until_unix_ms=2_000_000_000_000), done)
        until(lambda: len(ended) == 2)
        assert servicer.silences["silence-1"].matcher == "kind=latency"
        hub.act(action(address, "no such alert"), done)
        until(lambda: len(ended) == 3)
        assert ended[2][0] == "refused" and "no alert" in ended[2][1]
        fleet.kill(0)
        until(lambda: hub.links()[address].state in ("reconnecting", "lost", "connecting"))
        hub.act(action(address, "gpu-01.fra-latency"), done)
        until(lambda: len(ended) == 4)
        assert ended[3][0] == "waiting"


def test_kept_payload_is_fetched_by_its_id(sink: Kept, start: Callable[..., Hub]) -> None:
    servicer = stand_in()
    kept = next(e.prediction.prediction_id for e in servicer.past
                if e.HasField("prediction") and e.prediction.payload_kept)  # fmt: skip
    got: dict[str, tuple[bytes | None, str]] = {}
    with Fleet([servicer]) as fleet:
        hub = start(fleet.addresses)
        address = fleet.addresses[0]
        until(lambda: bool(hub.links()) and hub.links()[address].state == "live")
        hub.fetch(address, kept, lambda body, why: got.update(kept=(body, why)))
        hub.fetch(address, "unknown", lambda body, why: got.update(unknown=(body, why)))
        until(lambda: len(got) == 2)
    body = got["kept"][0]
    assert body is not None and b"Grinding noise" in body
    assert got["unknown"] == (None, "the server no longer keeps this payload")
