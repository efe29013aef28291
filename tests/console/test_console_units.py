"""Numbers as people write them."""

from __future__ import annotations

import math

import pytest

from console.models.quality import ece_error
from console.state.units import (
    number,
    percent_of,
    points_of,
    prefixed,
    quantity,
    share,
    share_of,
    size,
    wilson,
)
from pipelines.features import SCHEMA
from server.telemetry.rows import QualityRow, ReliabilityBin
from tests.support.blank_rows import blank


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (16_000, "16,000"),
        (999.6, "1,000"),
        (3.14159, "3.14"),
        (118.0, "118"),
        (0.00021, "0.00021"),
        (2e-6, "0.000002"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (1e-15, "0"),
        (1.2e9, "1,200,000,000"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_a_number_has_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (16_000.0, "Hz", "16 kHz"),
        (820.0, "Hz", "820 Hz"),
        (40_960.0, "By", "40 KiB"),
        (1_048_500.0, "By", "1 MiB"),
        (0.45, "nat", "0.45 nats"),
        (4.0, "1", "4"),
        (1.0, "1", "1"),
        (-24.13, "dB", "-24.1 dB"),
        (3.2, "s", "3.2 s"),
        (310.0, "W", "310 W"),
        (math.nan, "Hz", "–"),
    ],
)
def test_a_quantity_has_the_unit_of_people(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_no_feature_of_a_bundle_is_shown_with_a_library_unit() -> None:
    """ "1.6e+04 Hz", "1 1" and "By" were."""
    for feature in SCHEMA:
        for value in (1.0, 0.00031, 16_000.0, 3.2e6, -40.0):
            text = quantity(value, feature.unit, 4)
            assert "e+" not in text and "e-" not in text, (feature.name, text)
            assert not text.endswith((" 1", "By", "nat", "bit")), (feature.name, text)


def test_sizes_shares_and_prefixes() -> None:
    assert (size(999.0), size(1023 * 1024.0)) == ("999 B", "0.999 MiB")
    assert (share(0.843), share(1.0), share(0.843, 0), share(math.nan)) == (
        *("84.3 %", "100.0 %"),
        *("84 %", "–"),
    )
    assert prefixed(1.25e9, "Hz") == "1.25 GHz"


def test_the_interval_of_a_share_is_that_of_wilson() -> None:
    """Golden values: Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert all(math.isnan(side) for side in wilson(0, 0))
    assert share_of(1.0, 1) == "100.0 % (21–100)"
    assert share_of(0.5, 0) == "–"
    assert (percent_of(0.25, 1200), percent_of(0.01, 1000)) == ("25 % (23–28)", "1.0 % (0.5–1.8)")
    assert percent_of(math.nan, 12) == percent_of(0.5, 0) == "–"


def test_a_difference_has_the_interval_of_the_share_that_is_measured() -> None:
    """15 of 148 lies within 6.2 and 16.1 % (Newcombe 1998); 12 % were stated."""
    assert points_of(15 / 148, 0.12, 148) == "-1.9 ±6"
    assert points_of(math.nan, 0.12, 148) == points_of(0.1, math.nan, 148) == "–"


def test_what_chance_adds_to_a_calibration_error() -> None:
    """Two bins of 50 rows that state 0.6 and 0.9: 1.96 sqrt(50 x 0.24 + 50 x 0.09) / 100."""
    bins = (ReliabilityBin(50, 30.0, 30), ReliabilityBin(50, 45.0, 45), ReliabilityBin(0, 0.0, 0))
    found = ece_error(blank(QualityRow, reliability=bins))
    assert found == pytest.approx(1.96 * math.sqrt(12 + 4.5) / 100, abs=1e-5)
    assert math.isnan(ece_error(blank(QualityRow)))
