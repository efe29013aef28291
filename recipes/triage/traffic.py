"""A stream of examples as a plant would send them: in bursts, from several sites and both shifts.

Imports no torch, like `data`, because simulated clients import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from pipelines.types import SUBSETS, Modality
from recipes.triage import data
from recipes.triage.data import Example, Shift, Site
from recipes.triage.wordings import Split

SITE_SHARES: Mapping[Site, float] = MappingProxyType({"a": 0.45, "b": 0.3, "c": 0.25})
NIGHT_SHARE = 0.4
SUBSET_SHARES: Mapping[tuple[Modality, ...], float] = MappingProxyType(
    dict(zip(SUBSETS, (0.15, 0.08, 0.05, 0.14, 0.06, 0.12, 0.4), strict=True))
)
_MEAN_BURST = 3.0


def stream(rng: Generator, split: Split = "test") -> Iterator[Example]:
    """Endless. The examples of a burst share site, shift and whether the station is calm.

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
    """Samples the modalities of a request, with the shares of SUBSET_SHARES."""
    shares = np.array(list(SUBSET_SHARES.values()))
    return list(SUBSET_SHARES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
