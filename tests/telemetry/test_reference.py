"""Building reference/profile.json and reading it back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.build import reference_profile as builder
from server.telemetry.drift.profile import Reference
from server.telemetry.drift.reference import parse
from server.telemetry.errors import ReferenceRefused
from server.telemetry.record import FeatureSpec
from tests.support.telemetry_bench import cells

SCHEMA = (
    FeatureSpec("image.brightness", "image", "numeric", "1"),
    FeatureSpec("image.format", "image", "categorical", "", ("jpeg", "png")),
    FeatureSpec("audio.sample_rate", "audio", "numeric", "Hz"),
    FeatureSpec("text.truncated", "text", "numeric", "1"),
    FeatureSpec("embedding.pc00", "embedding", "numeric", "sd"),
    FeatureSpec("embedding.pc01", "embedding", "numeric", "sd"),
)


def rows(n: int = 4000, seed: int = 3) -> NDArray[np.float32]:
    r = np.random.default_rng(seed)
    columns = [
        r.normal(0.5, 0.1, n),
        r.integers(0, 2, n),
        r.choice([8000.0, 16000.0, 44100.0], n),
        np.zeros(n),
        r.normal(size=n),
        r.normal(size=n),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def text_of(matrix: NDArray[np.float32], **extra: object) -> bytes:
    content = builder.build(matrix, SCHEMA, **extra)  # type: ignore[arg-type]
    return json.dumps(content, sort_keys=True).encode()


def read(matrix: NDArray[np.float32], **extra: object) -> Reference:
    return parse(text_of(matrix, **extra), SCHEMA)


def test_the_same_rows_always_make_the_same_file() -> None:
    assert text_of(rows()) == text_of(rows())
    assert text_of(rows()) != text_of(rows(seed=4))


def test_what_is_built_can_be_read() -> None:
    found = read(rows())
    assert found.rows == 4000
    assert found.schema == SCHEMA
    assert [f.n for f in found.features] == [4000] * 6
    assert found.embedding is not None and found.embedding.n == 4000
    assert found.embedding.frequencies.shape == (2, 256)


def test_numeric_cells_hold_equal_mass_and_the_outer_two_nothing() -> None:
    counts = read(rows()).features[0].counts
    assert len(counts) == 64
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1].min() >= 60 and counts[1:-1].max() <= 69


def test_a_discrete_feature_shows_values_never_seen() -> None:
    rate = read(rows()).features[2]
    assert rate.discrete
    unseen = cells(rate, np.array([22050.0, 4000.0, 96000.0]))
    assert set(unseen) <= set(rate.unseen())
    assert not set(cells(rate, np.array([8000.0, 16000.0, 44100.0]))) & set(rate.unseen())


def test_a_constant_feature_keeps_its_one_value_apart() -> None:
    constant = read(rows()).features[3]
    assert constant.counts.tolist() == [0, 4000, 0]
    assert constant.deff == 1.0


def test_unknown_categories_fall_into_the_last_cell() -> None:
    kind = read(rows()).features[1]
    assert cells(kind, np.array([0.0, 1.0, 2.0, 7.0, -1.0])).tolist() == [0, 1, 2, 2, 2]


def test_nan_is_missing_only_where_the_modality_was_sent() -> None:
    matrix = rows(1000)
    matrix[:100, 0] = np.nan
    matrix[100, 0] = np.inf
    mixes = ["text"] * 60 + ["image+text"] * 940
    brightness = json.loads(text_of(matrix, mixes=mixes))["features"][0]
    assert (brightness["absent"], brightness["missing"]) == (60, 40)
    assert (brightness["nonfinite"], brightness["n"]) == (1, 899)


def test_a_feature_never_seen_has_an_empty_reference() -> None:
    matrix = rows(500)
    matrix[:, 0] = np.nan
    assert read(matrix).features[0].counts.tolist() == [0]


def test_slices_with_enough_rows_get_their_own_counts() -> None:
    tags = [{"site": "a" if i % 4 else "b", "unit": str(i)} for i in range(1000)]
    found = read(rows(1000), slices=tags)
    assert sorted(found.slices) == ["site=a", "site=b"]
    whole = found.slices["site=a"][0] + found.slices["site=b"][0]
    assert (whole == found.features[0].counts).all()


def test_independent_rows_have_a_design_effect_near_one_and_repeated_ones_their_burst() -> None:
    calm = read(rows(20000)).features
    assert all(f.deff < 1.6 for f in calm)
    bursts = np.repeat(rows(2500), 8, axis=0)
    for feature in read(bursts).features[:3]:
        assert 5.0 < feature.deff < 13.0


def test_reliability_and_confusion_count_the_labelled_rows() -> None:
    answers = builder.ReferenceAnswers(
        confidence=[0.9, 0.8, 0.6, 0.7],
        predicted=["ok", "ok", "stop", "ok"],
        truth=["ok", "stop", "stop", ""],
        labels=["ok", "stop"],
    )
    found = read(rows(4), answers=answers)
    assert found.reliability is not None
    assert found.reliability.n.sum() == 3 and found.reliability.sum_correct.sum() == 2
    assert found.confusion.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.update(format="trefoil-reference-9"),
        lambda c: c.pop("features"),
        lambda c: c["features"][0]["edges"].reverse(),
        lambda c: c["features"][0]["counts"].pop(),
        lambda c: c["features"][0]["counts"].__setitem__(3, -1),
        lambda c: c["features"][0].update(deff=0.5),
        lambda c: c["features"][1]["groups"].__setitem__(0, 9),
        lambda c: c["features"].pop(),
        lambda c: c["slices"].append({"name": "site=a", "counts": [[1]]}),
        lambda c: c.update(rows=-1),
        lambda c: c.update(rows=10**30),
        lambda c: c["features"][0]["counts"].__setitem__(0, 10**18),
        lambda c: c["features"][0]["counts"].__setitem__(0, 10**30),
        lambda c: c["features"][0].update(importance=float("nan")),
        lambda c: c["features"][0].update(missing=1e400),
        lambda c: c["features"][0].update(windows={"0": {}}),
        lambda c: c["features"][0].update(windows={"250": {"ks": [float("inf")]}}),
        lambda c: c["features"][0].update(windows=[1]),
        lambda c: c["features"][0]["counts"].__setitem__(0, 1.5),
        lambda c: c.update(features=[3]),
        lambda c: c.update(slices=3),
    ],
)
def test_a_damaged_reference_is_refused(damage: object) -> None:
    content = json.loads(text_of(rows(500)))
    damage(content)  # type: ignore[operator]
    with pytest.raises(ReferenceRefused, match=r"^reference/profile\.json .*pipelines build"):
        parse(json.dumps(content).encode(), SCHEMA)


def test_a_reference_for_other_features_is_refused() -> None:
    data = text_of(rows(500))
    other = (*SCHEMA[:2], replace(SCHEMA[2], unit="kHz"), *SCHEMA[3:])
    with pytest.raises(ReferenceRefused, match=r"audio.sample_rate \(audio numeric Hz\) in .*kHz"):
        parse(data, other)
    with pytest.raises(ReferenceRefused, match="5"):
        parse(data, SCHEMA[:5])
    with pytest.raises(ReferenceRefused):
        parse(b"\x00not json", SCHEMA)


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted"):
        builder.build(np.zeros((5, 3)), SCHEMA)
    with pytest.raises(ValueError, match="mixes"):
        builder.build(np.zeros((5, 6)), SCHEMA, mixes=["text"])
