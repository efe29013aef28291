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
    """When one row in forty is like `record` and the others are plain."""
    kept = rows = 0
    for i in range(40_000):
        special = i % 40 == 0
        row = replace(record if special else PLAIN, prediction_id=f"p{i}")
        choice = sampler.choose(row, firing and special)
        kept += special and choice.keep
        rows += special
    return kept / rows


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
    assert kept_share(Sampler(0.05), record, firing) == pytest.approx(share, abs=0.05)
    assert Sampler(0.05).choose(record, firing).probability == share


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_a_flood_of_errors_does_not_fill_the_disk(share: float) -> None:
    sampler = Sampler(share)
    choices = [
        sampler.choose(replace(PLAIN, prediction_id=f"p{i}", error="x" if i % 4 else ""))
        for i in range(8000)
    ]
    late = choices[4000:]
    assert sum(c.keep for c in late) / len(late) == pytest.approx(max(0.1, 2 * share), abs=0.02)
    assert all(c.probability > share for c in late if c.stratum == "error")
    assert all(c.probability == share for c in late if c.stratum == "plain")
    errors = [c for c in late if c.stratum == "error"]
    assert sum(1 / c.probability for c in errors if c.keep) == pytest.approx(len(errors), rel=0.2)


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
