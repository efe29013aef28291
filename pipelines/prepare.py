"""Prepares one row from one sample: decode, preprocess, tokenise, measure.

Thread-safe: everything it holds is immutable or a cache of a pure function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch

from pipelines.bundle import parameters
from pipelines.errors import BadInput, BundleRefused
from pipelines.features import input_features
from pipelines.media.decode import (
    Decoded,
    DecodedImage,
    DecodePart,
    InputLimits,
    decode_row,
    modality_of,
)
from pipelines.models.families import QWEN, SECTIONS, Family
from pipelines.models.gemma.log_mel import GemmaAudioConfig
from pipelines.models.gemma.patches import GemmaImageConfig
from pipelines.models.label_tree import Tokens
from pipelines.models.qwen.log_mel import AudioConfig
from pipelines.models.qwen.patches import Grid, ImageConfig
from pipelines.models.tokens import Placeholder, PromptTokenizer, Template, TextConfig
from pipelines.parts_used import parts_used, refuse_cut
from pipelines.types import Modality, Prepared, Sample, Task

MAX_LABELS = 1000
MAX_LABEL_TOKENS = 64
DEFAULT_NEW_TOKENS = 64
MAX_NEW_TOKENS = 4096  # cache memory for this many tokens is reserved when a text begins

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Label:
    """`text` is what the model must write to mean `name`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """preprocess.json: every parameter between bytes and tensors."""

    image: ImageConfig | GemmaImageConfig
    audio: AudioConfig | GemmaAudioConfig
    text: TextConfig
    limits: InputLimits

    @staticmethod
    def from_dict(values: Mapping[str, Any], family: Family = QWEN) -> Preprocessing:
        """Raises BundleRefused("config")."""
        if set(values) != set(SECTIONS):
            message = f"preprocess.json has sections {sorted(values)}, expected {SECTIONS}"
            raise BundleRefused("config", message)
        return Preprocessing(
            family.media.read_image(values["image"]),
            family.media.read_audio(values["audio"]),
            TextConfig.from_dict(values["text"]),
            InputLimits.from_dict(values["limits"]),
        )


def read_labels(values: Mapping[str, Any]) -> tuple[tuple[Label, ...], float]:
    """labels.json: (the bundle's labels, the temperature). Raises BundleRefused("config")."""
    try:
        items = list(values["labels"])
        if len(items) > MAX_LABELS:
            raise ValueError(f"labels has {len(items)} items; at most {MAX_LABELS}")
        labels = tuple(
            parameters.read(Label, item, f"labels[{number}]") for number, item in enumerate(items)
        )
        temperature = float(values["temperature"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BundleRefused("config", f"labels.json is malformed: {error!r}") from error
    if not labels or len({label.name for label in labels}) < len(labels):
        raise BundleRefused("config", "labels.json needs labels, all of different names")
    if not 0.0 < temperature < 100.0:
        raise BundleRefused("config", f"temperature {temperature} is not between 0 and 100")
    return labels, temperature


@dataclass(eq=False)
class Preparer:
    """Prepares the rows of one bundle. Raises BundleRefused("config") when the bundle's own labels
    cannot be scored."""

    preprocessing: Preprocessing
    text: PromptTokenizer
    labels: tuple[Label, ...]
    clock: Clock = time.perf_counter
    family: Family = QWEN

    def __post_init__(self) -> None:
        self._texts = {label.name: label.text for label in self.labels}
        self._tokens = lru_cache(maxsize=4096)(self.text.label_ids)
        try:
            self._own = self._checked(tuple(self._texts))
        except BadInput as error:
            raise BundleRefused("config", f"labels.json: {error}") from error

    @staticmethod
    def of(
        preprocess: Mapping[str, Any],
        template: Mapping[str, Any],
        tokenizer: bytes,
        labels: tuple[Label, ...],
        family: Family = QWEN,
    ) -> Preparer:
        """Reads the bundle's files. Raises BundleRefused("config")."""
        preprocessing = Preprocessing.from_dict(preprocess, family)
        framing = Template.from_dict(template)
        text = PromptTokenizer(tokenizer, preprocessing.text, framing, family.plain_added)
        return Preparer(preprocessing, text, labels, family=family)

    def prepare(self, sample: Sample, decode_part: DecodePart | None = None) -> Prepared:
        """`decode_part` has the interface of pipelines.media.decode.decode, the default; its result
        is not kept. Raises BadInput naming the part, the field and the limit."""
        started = self.clock()
        self._check(sample)
        parts = decode_row(sample.parts, self.preprocessing.limits, decode_part)
        decoded = self.clock()
        media = self._media(parts)
        labels = [self._text_of(name) for name in sample.labels or self._texts]
        encoded = self.text.encode(media.pieces, sample.task, labels)
        used = parts_used(parts, encoded, media.grids, self.preprocessing.image.patch_size)
        if sample.refuse_truncation:
            refuse_cut(used)
        return Prepared(
            id=sample.id,
            task=sample.task,
            labels=sample.labels,
            want_embedding=sample.want_embedding or sample.task == "embed",
            max_new_tokens=sample.max_new_tokens or DEFAULT_NEW_TOKENS,
            input_ids=encoded.input_ids,
            pixel_values=media.pixels,
            image_grid=media.grids,
            log_mels=media.mels,
            features=input_features(parts, encoded, self.preprocessing.audio.sample_rate),
            modalities=_modalities(parts),
            parts_used=used,
            tokens=len(encoded.input_ids),
            decode_ms=(decoded - started) * 1000,
            preprocess_ms=(self.clock() - decoded) * 1000,
        )

    def normalised(self, levels: torch.Tensor) -> torch.Tensor:
        """The image encoder's input, computed from the levels of prepared rows on their device."""
        return self.family.media.normalised(levels, self.preprocessing.image)

    def verbalisers(self, row: Prepared) -> tuple[Tokens, ...]:
        """Token ids of each label that the row is scored against; empty for embed and generate."""
        if row.task != "classify":
            return ()
        return self._own if not row.labels else tuple(map(self._tokens_of, row.labels))

    def _check(self, sample: Sample) -> None:
        if sample.task not in get_args(Task):
            raise BadInput(
                "task", "UNKNOWN_TASK", f"{sample.task!r}; send one of {', '.join(get_args(Task))}"
            )
        if not 0 <= sample.max_new_tokens <= MAX_NEW_TOKENS:
            message = f"{sample.max_new_tokens} tokens; send 0 (the default) to {MAX_NEW_TOKENS}"
            raise BadInput("max_new_tokens", "OUT_OF_RANGE", message)
        if sample.labels:
            self._checked(sample.labels)

    def _checked(self, names: Sequence[str]) -> tuple[Tokens, ...]:
        """The tokens of each label. Raises BadInput for a label set that cannot be scored."""
        if len(names) > MAX_LABELS:
            raise BadInput("labels", "TOO_MANY_LABELS", f"{len(names)}; the limit is {MAX_LABELS}")
        seen: dict[Tokens, int] = {}
        for number, name in enumerate(names):
            field, tokens = f"labels[{number}]", self._tokens_of(name)
            # Only the end token: the label is empty.
            if len(tokens) <= len(self.text.eos_ids):
                raise BadInput(field, "LABEL_EMPTY", "the label has no visible text")
            if len(tokens) > MAX_LABEL_TOKENS:
                message = f"{len(tokens)} tokens; the limit is {MAX_LABEL_TOKENS}. Shorten it."
                raise BadInput(field, "LABEL_TOO_LONG", message)
            if tokens in seen:
                message = f"the same as labels[{seen[tokens]}]; leave one out"
                raise BadInput(field, "LABEL_REPEATED", message)
            seen[tokens] = number
        return tuple(seen)

    def _tokens_of(self, label: str) -> Tokens:
        return self._tokens(self._text_of(label))

    def _text_of(self, label: str) -> str:
        return self._texts.get(label, label)

    def _media(self, parts: Sequence[Decoded]) -> _MediaInputs:
        family, config = self.family.media, self.preprocessing
        pixels: list[torch.Tensor] = []
        grids: list[Grid] = []
        mels: list[torch.Tensor] = []
        pieces: list[str | Placeholder] = []
        for number, part in enumerate(parts):
            if isinstance(part, str):
                pieces.append(part)
            elif isinstance(part, DecodedImage):
                values, grid = family.levels(part, config.image)
                pixels.append(values)
                grids.append(grid)
                pieces.append(("image", math.prod(grid) // config.image.merge_size**2))
            else:
                mels.append(family.log_mel(part, config.audio, f"parts[{number}].data"))
                pieces.append(("audio", family.audio_tokens(mels[-1].shape[1])))
        together = torch.cat(pixels) if len(pixels) > 1 else next(iter(pixels), None)
        return _MediaInputs(pieces, together, tuple(grids), tuple(mels))


@dataclass(frozen=True, slots=True)
class _MediaInputs:
    """A row's parts in the form that the tokenizer and the encoders take, each kind in the order
    given."""

    pieces: Sequence[str | Placeholder]
    pixels: torch.Tensor | None
    grids: tuple[Grid, ...]
    mels: tuple[torch.Tensor, ...]


def _modalities(parts: Sequence[Decoded]) -> tuple[Modality, ...]:
    found = {modality_of(part) for part in parts}
    return tuple(sorted(found))
