"""How far two computations of one floating-point value may be apart: see "What may differ"
in docs/bundle.md.

The last bits of a product depend on the CPU, the number of threads, the batch mates and the memory
alignment of the buffers. Tests, `benchmarks.portable` and `benchmarks.soak` take their bounds here.
The golden answers of a bundle carry their own tolerance, which leaves room for GPUs too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Bound:
    """`units`: in the last place of the largest value of the array compared, in a format whose
    mantissa has `bits` bits: 24 is float32, 8 is bfloat16."""

    name: str
    units: float
    bits: int = 24

    def holds(self, ours: ArrayLike, theirs: ArrayLike) -> bool:
        """Raises ValueError for arrays of different shapes."""
        return apart(ours, theirs, self.bits) <= self.units

    def check(self, ours: ArrayLike, theirs: ArrayLike) -> None:
        """Raises AssertionError naming the difference found and the bound, and raises an audit
        event with the first, which `tests/support/worst_apart.py` collects."""
        found = apart(ours, theirs, self.bits)
        sys.audit("trefoil.apart", self.name, found)
        if not found <= self.units:
            raise AssertionError(
                f"{self.name}: {found:.1f} units in the last place apart, bound {self.units:g}"
            )


def apart(ours: ArrayLike, theirs: ArrayLike, bits: int = 24) -> float:
    """The largest difference, in units in the last place of the largest value of `theirs`.

    `bits`: of the format's mantissa. Places where both are NaN, or
    both the same infinity, are equal. NaN against a number gives infinity. Raises ValueError for
    arrays of different shapes.
    """
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {one.shape} and {other.shape}")
    unequal = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    if not unequal.any():
        return 0.0
    difference = np.abs(one[unequal] - other[unequal])
    if not np.isfinite(difference).all():
        return float("inf")
    largest = np.abs(other[np.isfinite(other)]).max()
    if largest == 0.0:
        return float("inf")
    # frexp: largest = m * 2**exponent with 0.5 <= m < 1.
    unit = float(np.ldexp(1.0, int(np.frexp(largest)[1]) - bits))
    return float(difference.max()) / unit


# A bound is a power of two, at least twice the worst difference measured.
# The measurements are in docs/bundle.md; change both together.
LOG_MEL: Final = Bound("log-mel of noise", 512)
# A loud band leaves its rounding in the quiet ones of the same clip.
LOG_MEL_QUIET: Final = Bound("log-mel with quiet bands", 2048)
PATCHES: Final = Bound("patches", 1)
HIDDEN: Final = Bound("hidden state", 1024)
HIDDEN_BFLOAT16: Final = Bound("hidden state in bfloat16", 64, bits=8)
LOGIT: Final = Bound("logit", 1024)
LOG_PROBABILITY: Final = Bound("log probability", 512)
PROBABILITY: Final = Bound("probability", 1024)
EMBEDDING: Final = Bound("embedding", 512)
FEATURE: Final = Bound("feature", 2048)
