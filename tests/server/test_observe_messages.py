"""Rows and messages stay in step: every field of a row has a field in its message."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from proto import observe_pb2 as pb
from server.api.observe_messages import EVENTS, event_of
from server.telemetry import rows
from server.telemetry.record import Record

MIRRORED = [kind for kind in EVENTS if kind is not rows.PredictionRow]


@pytest.mark.parametrize("kind", MIRRORED, ids=lambda kind: kind.__name__)
def test_every_field_of_a_row_is_in_its_message(kind: type) -> None:
    message = EVENTS[kind][1]
    assert {f.name for f in fields(kind)} == {f.name for f in message.DESCRIPTOR.fields}


def test_every_row_type_has_an_event() -> None:
    assert set(EVENTS) == set(rows.Row.__args__)
    names = {f.name for f in pb.WatchEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert {name for name, _ in EVENTS.values()} | {"snapshot"} == names


def test_nested_rows_arrive_whole() -> None:
    transition = rows.AlertTransition(5, "pending", "firing", "rule", "3 of 4 ticks")
    row = rows.AlertRow(
        id="a1",
        key="drift/audio",
        kind="drift",
        severity="high",
        state="firing",
        opened_unix_ms=1,
        last_unix_ms=2,
        closed_unix_ms=0,
        stamp="f" * 64,
        summary="audio.rms_dbfs moved at site b",
        features=("audio.rms_dbfs",),
        slices=("site=b",),
        history=(transition,),
    )
    event = event_of(row, pb.WatchEvent(cursor=3))
    assert event.alert.history[0].to_state == "firing"
    assert list(event.alert.slices) == ["site=b"]
    assert event.cursor == 3


def test_a_prediction_carries_its_features_in_order() -> None:
    record = Record(
        prediction_id="p",
        at=1.5,
        stamp="s",
        task="classify",
        mix="text",
        label="watch",
        confidence=0.75,
        margin=0.5,
        entropy=0.1,
        closed_set_mass=0.9,
        features=np.array([1.0, np.nan, 3.0], "<f4").tobytes(),
        slices={"site": "b"},
        client="c",
        session="",
        replica=-1,
        batch_size=4,
        queue_ms=1,
        decode_ms=2,
        preprocess_ms=3,
        forward_ms=4,
        post_ms=5,
        total_ms=15,
    )
    message = event_of(rows.PredictionRow(record, payload_kept=True), pb.WatchEvent()).prediction
    assert message.features[0] == 1 and np.isnan(message.features[1])
    assert (message.at_unix_ms, message.replica, message.payload_kept) == (1500, 0, True)
    assert message.timing.total_ms == 15 and message.slices["site"] == "b"
