"""The themes are readable: contrast and colour blindness, computed from their colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PySide6.QtCore import Qt

from console.app.theme import THEMES, Theme
from console.plots.charts import apart, split_pen

Floats = NDArray[np.float64]
TEXTS = ("text", "dim", "accent", "critical", "high", "warning", "ok", "unknown", "info")
GROUNDS = ("background", "panel", "raised")
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3: text
LEAST_GRAPHIC = 3.0  # 1.4.11: lines of a plot
LEAST_APART = 20.0  # CIE 1976; 2.3 is the least that is seen side by side
# Linear RGB as it is seen without one kind of cone: Machado, Oliveira, Fernandes 2009, severity 1.
SEEN = {
    "usual": np.eye(3),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(color: str) -> Floats:
    shares = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Of WCAG: 1 to 21."""
    low, high = sorted(float(XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Floats) -> Floats:
    ratio = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_measures_are_right() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    red, green = (lab(SEEN["deuteranope"] @ linear(c)) for c in ("#a57a3c", "#7c8a3c"))
    assert np.linalg.norm(red - green) < np.linalg.norm(
        lab(linear("#a57a3c")) - lab(linear("#7c8a3c"))
    )


@pytest.mark.parametrize("theme", THEMES.values(), ids=lambda theme: theme.name)
def test_every_text_can_be_read_on_every_ground(theme: Theme) -> None:
    poor = [
        (tone, ground, round(found, 2))
        for tone in TEXTS
        for ground in GROUNDS
        if (found := contrast(theme.hex(tone), theme.hex(ground))) < LEAST_CONTRAST
    ]
    assert not poor
    for tone in ("text", "dim"):  # of a row that is selected
        assert contrast(theme.hex(tone), theme.selection) >= LEAST_CONTRAST


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("theme", THEMES.values(), ids=lambda theme: theme.name)
def test_lines_of_a_split_can_be_distinguished(theme: Theme, eyes: str) -> None:
    seen = {color: lab(SEEN[eyes] @ linear(color)) for color in theme.split}
    for one, other in combinations(theme.split, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > LEAST_APART, (one, other)
    assert all(contrast(color, theme.panel) >= LEAST_GRAPHIC for color in theme.split)


def test_a_line_has_dashes_beside_its_colour_and_its_name_at_its_end() -> None:
    theme = THEMES["dark"]
    styles = [split_pen(theme, number).style() for number in range(8)]
    assert len(set(styles[:4])) == 4 and styles[0] == Qt.PenStyle.SolidLine
    assert apart([10, 12, 13, 90], 14, 100) == [10, 24, 38, 90]
    assert apart([95, 97, 99], 14, 100) == [72, 86, 100]
    assert apart([], 14, 100) == []
