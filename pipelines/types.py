"""The data that passes through the pipeline: plain frozen classes, without transport or server.

The one table of modalities is here too. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Modality = Literal["text", "image", "audio"]
MediaModality = Literal["image", "audio"]  # modalities that a placeholder token represents
Task = Literal["classify", "embed", "generate"]

MODALITIES: tuple[Modality, ...] = get_args(Modality)
# Every non-empty combination of modalities a request can have, the smallest first.
SUBSETS: tuple[tuple[Modality, ...], ...] = tuple(
    subset for size in range(1, len(MODALITIES) + 1) for subset in combinations(MODALITIES, size)
)


def mix_of(modalities: Iterable[str]) -> str:
    """The name of a combination, such as `audio+text`: sorted, without repeats."""
    return "+".join(sorted(set(modalities)))


MIXES: tuple[str, ...] = tuple(map(mix_of, SUBSETS))


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """Layout of headerless PCM: `encoding` is "s16le" or "f32le"."""

    sample_rate: int
    channels: int
    encoding: str


@dataclass(frozen=True, slots=True)
class Part:
    """One input, in the order given. With `kind` None, the content decides the modality."""

    kind: Modality | None
    data: bytes | str
    mime: str = ""
    pcm: PcmFormat | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to answer. `labels` empty means the bundle's own label set."""

    id: str
    parts: tuple[Part, ...]
    task: Task = "classify"
    labels: tuple[str, ...] = ()
    want_embedding: bool = False
    max_new_tokens: int = 0
    refuse_truncation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartUsed:
    """How much of one part the model received; numbers of other modalities are 0.

    Sizes are in pixels: `width_sent` and `height_sent` as in the file, `width_used` and
    `height_used` upright and as the model received them. Of `frames_sent` pictures the first was
    used; `channels_sent` channels were mixed to one. `cut`: some of the part was not used, or may
    be missing. `warning` is one of pipelines.media.limits.WARNINGS, or empty.
    """

    modality: Modality
    cut: bool = False
    tokens_used: int = 0
    tokens_sent: int = 0
    seconds_used: float = 0.0
    seconds_sent: float = 0.0
    channels_sent: int = 0
    width_used: int = 0
    height_used: int = 0
    width_sent: int = 0
    height_sent: int = 0
    frames_sent: int = 0
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoded and preprocessed row, ready for any batch.

    `input_ids` holds one media placeholder token per media embedding, in place; `pixel_values`
    is uint8 [patches, channels*patch*patch] with `image_grid` [(t, h, w), ...], or what the encoder
    takes in float32;
    `log_mels` are float32 [mel bins, frames], one a sound.
    """

    id: str
    task: Task
    labels: tuple[str, ...]
    want_embedding: bool
    max_new_tokens: int
    input_ids: NDArray[np.int64]
    pixel_values: torch.Tensor | None
    image_grid: tuple[tuple[int, int, int], ...]
    log_mels: tuple[torch.Tensor, ...]
    features: Mapping[str, float]
    modalities: tuple[Modality, ...]  # sorted, without repeats
    tokens: int
    decode_ms: float
    preprocess_ms: float
    parts_used: tuple[PartUsed, ...] = ()  # empty for a row that was not made from parts


@dataclass(frozen=True, slots=True)
class RowScore:
    label: str
    probability: float
    log_prob: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one row. `features` has every name of `features.SCHEMA`; NaN = absent."""

    id: str
    stamp: str
    label: str
    confidence: float
    margin: float
    entropy: float
    closed_set_mass: float
    tokens_used: int  # prompt tokens of the row, padding not counted
    scores: tuple[RowScore, ...]  # best first
    embedding: NDArray[np.float32] | None  # L2-normalised, [H]
    text: str | None
    features: Mapping[str, float]
    parts_used: tuple[PartUsed, ...] = ()  # one for each part, in the order given

    @property
    def parts_cut(self) -> int:
        """How many parts were cut or have a warning."""
        return sum(part.cut or bool(part.warning) for part in self.parts_used)
