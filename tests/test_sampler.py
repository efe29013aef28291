"""Which payloads are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.telemetry.record import Record
from server.telemetry.sampler import MOST_BYTES, Sampler, uniform

PLAIN = Record(
    prediction_id="0",
    at=0.0,
    stamp="s",
    task="classify",
    mix="text",
    label="ok",
    confidence=0.9,
    margin=0.8,
    entropy=0.1,
    closed_set_mass=0.9,
    features=b"",
    slices={},
    client="",
    session="",
    replica=0,
    batch_size=1,
    queue_ms=0,
    decode_ms=0,
    preprocess_ms=0,
    forward_ms=0,
    post_ms=0,
    total_ms=0,
    payload=b"kept",
)


def kept_share(sampler: Sampler, record: Record, firing: bool = False) -> float:
    rows = 4000
    chosen = (sampler.choose(replace(record, prediction_id=f"p{i}"), firing) for i in range(rows))
    return sum(choice.keep for choice in chosen) / rows


@pytest.mark.parametrize(
    ("change", "firing", "share"),
    [
        ({}, False, 0.05),
        ({"margin": 0.1}, False, 0.5),
        ({}, True, 0.5),
        ({"error": "INVALID_ARGUMENT/EMPTY/parts[0]"}, False, 1.0),
    ],
)
def test_more_is_kept_of_what_is_worth_looking_at(
    change: dict[str, object], firing: bool, share: float
) -> None:
    record = replace(PLAIN, **change)  # type: ignore[arg-type]
    assert kept_share(Sampler(0.05), record, firing) == pytest.approx(share, abs=0.02)
    assert Sampler(0.05).choose(record, firing).probability == share


def test_the_choice_is_the_same_everywhere() -> None:
    assert [Sampler(0.3).choose(PLAIN) for _ in range(3)] == [Sampler(0.3).choose(PLAIN)] * 3
    assert 0 <= uniform("anything") < 1


@pytest.mark.parametrize(
    ("sampler", "record", "stratum"),
    [
        (Sampler(0.0), replace(PLAIN, error="x"), "off"),
        (Sampler(1.0), replace(PLAIN, payload=b""), "opted-out"),
        (Sampler(1.0), replace(PLAIN, payload=bytes(MOST_BYTES + 1)), "too-large"),
    ],
)
def test_nothing_is_kept_that_must_not_be(sampler: Sampler, record: Record, stratum: str) -> None:
    choice = sampler.choose(record)
    assert (choice.keep, choice.probability, choice.stratum) == (False, 0.0, stratum)
