"""The limits on what one row may send, and the types of decoded parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.bundle import parameters


@dataclass(frozen=True, slots=True)
class InputLimits:
    """The most one row may send. Checked before memory is allocated wherever a header allows it.

    The limits are part of the bundle, because they decide which inputs the model gets. A server's
    own limits on parts and bytes of text have the same defaults (tests/pipelines/test_limits.py).
    `jpeg_draft_px` is 0 (off), or the side in pixels down to which the JPEG decoder may scale while
    decoding: faster, and up to 14 of 255 levels away from the exact pixels.
    """

    max_parts: int = 32
    max_part_bytes: int = 32 * 2**20
    max_row_bytes: int = 64 * 2**20
    max_row_decoded_bytes: int = 256 * 2**20  # pixels and samples of all parts together
    max_text_bytes: int = 64 * 2**10
    max_image_pixels: int = 25_000_000
    max_image_side: int = 16_384
    max_image_aspect: float = 100.0
    jpeg_draft_px: int = 0
    max_audio_s: float = 30.0
    min_audio_s: float = 0.05
    min_audio_rate: int = 8_000
    max_audio_rate: int = 192_000
    max_audio_channels: int = 8
    max_audio_values: int = 24_000_000  # frames times channels: 96 MB as float32
    max_audio_peak: float = 16.0  # full scale is 1; above this the samples were not scaled to it
    min_audio_rms_dbfs: float = -90.0  # below the noise of 16-bit audio there is no signal

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...) for an unknown or missing limit."""
        return parameters.read(cls, values, "limits")


# The warnings about a part that was used anyway, each with its message.
LENGTH_UNKNOWN = "LENGTH_UNKNOWN"
LENGTH_WRONG = "LENGTH_WRONG"
HEADER_WRONG = "HEADER_WRONG"
NO_END = "NO_END"
DAMAGED = "DAMAGED"
PAGES_MISSING = "PAGES_MISSING"
METADATA_BROKEN = "METADATA_BROKEN"
SCANS_MISSING = "SCANS_MISSING"
WARNINGS: Mapping[str, str] = {
    LENGTH_UNKNOWN: "the header does not give the length; everything in the file was used",
    LENGTH_WRONG: "the header gives another length; everything in the file was used",
    HEADER_WRONG: "the header contradicts itself or the content about rate, channels or size; "
    "what the content or most of the header gives was used",
    NO_END: "the end marker is missing; everything in the file was used",
    DAMAGED: "a damaged place was skipped",
    PAGES_MISSING: "pages are missing in the middle; the rest was used",
    METADATA_BROKEN: "the metadata is broken; the orientation may be wrong",
    SCANS_MISSING: "scans of a progressive picture are missing; it is less sharp than intended",
}

# Warnings after which some of the part may be missing; after the others everything was used.
INCOMPLETE = frozenset((NO_END, DAMAGED, PAGES_MISSING, SCANS_MISSING))

DEFAULT = InputLimits()
QWEN = InputLimits(max_audio_s=300.0, max_audio_values=32_000_000)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`pixels` uint8 [H, W, 3], upright, on white; `mode` is the file's own colour mode.

    `has_orientation`: an EXIF orientation other than upright was applied. `warning` is one of
    WARNINGS, or empty. `frames`: pictures in the file, of which this is the first. `sent` is
    (width, height) in the file, before any turn and any scaling by the decoder.
    """

    pixels: NDArray[np.uint8]
    format: str
    mode: str
    width: int
    height: int
    payload_bytes: int
    has_orientation: bool = False
    warning: str = ""
    frames: int = 1
    sent: tuple[int, int] = (0, 0)

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """`wave` float32 [T, channels] in [-1, 1] at the file's own `sample_rate` (hertz). `warning` is
    one of WARNINGS, or empty."""

    wave: NDArray[np.float32]
    sample_rate: int
    codec: str
    payload_bytes: int
    warning: str = ""

    @property
    def nbytes(self) -> int:
        return self.wave.nbytes

    @property
    def channels(self) -> int:
        return int(self.wave.shape[1])

    @property
    def seconds(self) -> float:
        return float(self.wave.shape[0] / self.sample_rate)
