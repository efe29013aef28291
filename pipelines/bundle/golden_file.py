"""golden/golden.json and the files beside it: inputs, and the answers expected for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from pipelines.bundle import bounds
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.contents import Contents
from pipelines.errors import BundleRefused
from pipelines.media.sniff import sniff
from pipelines.types import Modality, Part, Prediction, Sample, mix_of

FILE: Final = "golden/golden.json"
SCHEMA: Final = "trefoil.golden/1"
# By the dtype the model runs in. The float32 value allows for another order of summation, the
# others for the rounding of every activation (bfloat16 has 8 bits of mantissa: 0.4 % a step).
TOLERANCE: Final = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
_EMBEDDING_HEAD: Final = 16
TEXT_TOKENS: Final = 8  # enough for the cached keys and values to matter
_SUFFIX: Final = {"JPEG": ".jpg", "PNG": ".png", "FLAC": ".flac", "OGG": ".ogg", "WAV": ".wav"}


@dataclass(frozen=True, slots=True)
class Expected:
    """`scores` maps a label to (log probability, probability); `embedding` holds the first
    components only; `text` is the beginning of the generated answer, None where none was
    recorded."""

    label: str
    scores: Mapping[str, tuple[float, float]]
    embedding: tuple[float, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The tolerance of each dtype; `recorded` is the dtype in which the answers were recorded."""

    recorded: str
    by_dtype: Mapping[str, float]

    def between(self, dtype: str) -> float:
        """The tolerance of the coarser of the two dtypes; a dtype without a tolerance gets the
        strictest one."""
        strictest = min(self.by_dtype.values())
        return max(self.by_dtype.get(name, strictest) for name in (self.recorded, dtype))

    def compares_texts(self, dtype: str) -> bool:
        """Whether texts are compared. A text is equal or not, and a coarser dtype may change a
        close choice of token."""
        return self.recorded == dtype == "float32"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """`expected` is None while the bundle is being built."""

    id: str
    mix: str
    sample: Sample
    expected: Expected | None

    @property
    def to_write(self) -> Sample:
        """The same input, to be answered with a text."""
        return replace(
            self.sample,
            task="generate",
            labels=(),
            want_embedding=False,
            max_new_tokens=TEXT_TOKENS,
        )


def read(bundle: Bundle | Contents) -> tuple[list[GoldenCase], Tolerance]:
    """The cases and the tolerances. Raises BundleRefused("golden")."""
    values: Any = bundle.json(FILE)
    try:
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']!r}")
        by_dtype = {dtype: float(value) for dtype, value in values["tolerance"].items()}
        tolerance = Tolerance(str(values["recorded_in"]), by_dtype)
        items = list(values["cases"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleRefused("golden", f"{FILE} is malformed: {error!r}") from error
    if not items or not by_dtype:
        raise BundleRefused("golden", f"{FILE} has no cases or no tolerance")
    bounds.golden(len(items), by_dtype)
    return [_named_case(bundle, number, item) for number, item in enumerate(items)], tolerance


def _named_case(bundle: Bundle | Contents, number: int, item: Any) -> GoldenCase:
    try:
        return _case(bundle, item)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = f"{FILE}: cases[{number}] is malformed: {error!r}"
        raise BundleRefused("golden", message) from error


def _case(bundle: Bundle | Contents, item: Any) -> GoldenCase:
    parts = []
    for number, part in enumerate(item["parts"]):
        if part["kind"] not in get_args(Modality):
            raise ValueError(f"parts[{number}].kind is {str(part['kind'])[:40]!r}")
        content = bundle.content(f"golden/{part['file']}")
        data = content.decode() if part["kind"] == "text" else content
        parts.append(Part(part["kind"], data))
    sample = Sample(item["id"], tuple(parts), labels=tuple(item["labels"]), want_embedding=True)
    expected = item.get("expected")
    return GoldenCase(
        item["id"],
        mix_of(p.kind for p in parts if p.kind),
        sample,
        expected and _expected(expected),
    )


def _expected(item: Any) -> Expected:
    scores = {label: (float(a), float(b)) for label, (a, b) in item["scores"].items()}
    return Expected(item["label"], scores, tuple(map(float, item["embedding"])), item.get("text"))


def files(samples: Sequence[Sample]) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """The files of these inputs: contents by path, and the cases without answers.

    Raises ValueError for an input that has no file form (raw PCM, a part of unstated kind).
    """
    contents: dict[str, bytes] = {}
    cases: list[dict[str, object]] = []
    for sample in samples:
        parts = []
        for number, part in enumerate(sample.parts):
            data, suffix = _file_form(sample.id, part)
            name = f"{sample.id}.{number}{suffix}"
            contents[f"golden/{name}"] = data
            parts.append({"kind": part.kind, "file": name})
        cases.append({"id": sample.id, "labels": list(sample.labels), "parts": parts})
    return contents, cases


def _file_form(case: str, part: Part) -> tuple[bytes, str]:
    if part.kind == "text" and isinstance(part.data, str):
        return part.data.encode(), ".txt"
    data = part.data if isinstance(part.data, bytes) else b""
    found = sniff(data)
    suffix = _SUFFIX.get(found[1]) if found else None
    if part.kind is None or suffix is None:
        raise ValueError(f"golden input {case}: parts are text, or JPEG, PNG, WAV, FLAC, OGG bytes")
    return data, suffix


def document(
    cases: Sequence[Mapping[str, object]],
    tolerance: Mapping[str, float] = TOLERANCE,
    recorded_in: str = "",
) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "recorded_in": recorded_in,
        "tolerance": dict(tolerance),
        "cases": list(cases),
    }


def answer_of(case: str, answer: Prediction) -> dict[str, object]:
    """What to record of a scored answer. Raises BundleRefused("golden") for NaN and infinity."""
    embedding = embedding_head(answer)
    scores = {s.label: [_short(s.log_prob), _short(s.probability)] for s in answer.scores}
    numbers = [number for pair in scores.values() for number in pair] + embedding
    if not all(map(math.isfinite, numbers)):
        raise BundleRefused("golden", f"{case} is answered with NaN or infinity")
    return {
        "label": answer.label,
        "scores": scores,
        "embedding": [_short(value) for value in embedding],
    }


def embedding_head(answer: Prediction) -> list[float]:
    if answer.embedding is None:
        return []
    return [float(value) for value in answer.embedding[:_EMBEDDING_HEAD]]


def _short(value: float) -> float:
    """Rounds to seven digits, far below the tolerance: the last one or two depend on CPU and
    threads."""
    return float(f"{value:.7g}")
