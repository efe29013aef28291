"""A stream of examples as a plant sends them: in bursts, from several sites and both shifts.

Imports no torch, like `data`: what plays clients imports it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from recipes.triage import data
from recipes.triage.data import Example, Modality, Shift, Site
from recipes.triage.wordings import Split

SITE_SHARES: Mapping[Site, float] = MappingProxyType({"a": 0.45, "b": 0.3, "c": 0.25})
NIGHT_SHARE = 0.4
SUBSET_SHARES: Mapping[tuple[Modality, ...], float] = MappingProxyType(
    dict(zip(data.SUBSETS, (0.15, 0.08, 0.05, 0.14, 0.06, 0.12, 0.4), strict=True))
)
_MEAN_BURST = 3.0


def stream(rng: Generator, split: Split = "test") -> Iterator[Example]:
    """Endless. A burst comes from one site and shift, and of one frame of mind: calm or not.

    The day has no rhythm: the sites work around the clock in different time zones.
    """
    sites, site_shares = list(SITE_SHARES), list(SITE_SHARES.values())
    while True:
        site = sites[int(rng.choice(len(sites), p=site_shares))]
        shift: Shift = "night" if rng.random() < NIGHT_SHARE else "day"
        calm = bool(rng.random() < data.CALM_SHARE)
        for _ in range(int(rng.geometric(1 / _MEAN_BURST))):
            yield data.example(
                rng, site=site, shift=shift, split=split, modalities=subset(rng), calm=calm
            )


def subset(rng: Generator) -> tuple[Modality, ...]:
    """Which modalities come along, in the shares of SUBSET_SHARES."""
    shares = np.array(list(SUBSET_SHARES.values()))
    return list(SUBSET_SHARES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
