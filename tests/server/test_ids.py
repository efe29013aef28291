"""Prediction ids sort by time and contain their day."""

from __future__ import annotations

import uuid

from server.request.validation import prediction_id
from server.telemetry.stamps.feedback import made_at


def test_an_id_is_a_uuid_of_version_7_and_tells_when_it_was_made() -> None:
    made = prediction_id(1_700_000_000_123)
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert made_at(made) == 1_700_000_000.123


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    made = [prediction_id(at) for at in (5, 6, 7) for _ in range(100)]
    assert len(set(made)) == 300
    assert sorted(made, key=lambda one: one[:12]) == made


def test_what_is_not_ours_has_no_time() -> None:
    assert made_at("r1") is None
    assert made_at("z" * 12 + "7" + "0" * 19) is None
