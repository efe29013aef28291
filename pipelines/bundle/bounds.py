"""Bounds for every number of a bundle, and for the shape of its JSON files.

A number outside its bound is refused by name before any computation or allocation uses it. The
bounds are wide (no published checkpoint comes near one). They keep a typing error or a hostile
bundle from causing a crash, an endless loop or gigabytes of allocations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pipelines.errors import BundleRefused

Range = tuple[float, float]

# The shape of any JSON file. JSON's own integers are exact to 2**53 (RFC 8259, section 6).
MAX_DEPTH: Final = 32
MAX_NUMBER: Final = float(2**53)
MAX_NAME_CHARS: Final = 80  # characters of a field's name that a refusal repeats

_COUNT: Final = (1, 1 << 20)
_SHARE: Final = (0.0, 1.0)
_BYTES: Final = (1, 1 << 33)

# preprocess.json, labels.json: section.field.
PARAMETERS: Final[Mapping[str, Range]] = {
    "image.min_pixels": (1, 1 << 30),
    "image.max_pixels": (1, 1 << 30),
    "image.patch_size": (1, 256),
    "image.merge_size": (1, 16),
    "image.temporal_patch_size": (1, 16),
    "image.mean": (-1e3, 1e3),
    "image.std": (1e-6, 1e3),
    "image.max_soft_tokens": (1, 1 << 16),
    "image.pooling_kernel_size": (1, 64),
    "audio.sample_rate": (1_000, 768_000),
    "audio.max_s": (0.01, 86_400.0),
    "audio.resample_zeros": (1, 1_024),
    "audio.resample_rolloff": (0.01, 1.0),
    "audio.resample_beta": (0.0, 100.0),
    "audio.frame": (16, 1 << 16),
    "audio.n_fft": (16, 1 << 16),
    "audio.hop": (1, 1 << 16),
    "audio.n_mels": (1, 4_096),
    "audio.f_min": (0.0, 384_000.0),
    "audio.f_max": (1.0, 384_000.0),
    "audio.log_floor": (1e-30, 1.0),
    "audio.dynamic_range": (0.1, 100.0),
    "text.max_text_tokens": _COUNT,
    "text.max_tokens": _COUNT,
    "limits.max_parts": (1, 4_096),
    "limits.max_part_bytes": _BYTES,
    "limits.max_row_bytes": _BYTES,
    "limits.max_row_decoded_bytes": _BYTES,
    "limits.max_text_bytes": _BYTES,
    "limits.max_image_pixels": (1, 1 << 30),
    "limits.max_image_side": (1, 1 << 20),
    "limits.max_image_aspect": (1.0, 1e6),
    "limits.jpeg_draft_px": (0, 1 << 20),
    "limits.max_audio_s": (0.01, 86_400.0),
    "limits.min_audio_s": (0.0, 3_600.0),
    "limits.min_audio_rate": (1, 768_000),
    "limits.max_audio_rate": (1, 768_000),
    "limits.max_audio_channels": (1, 1_024),
    "limits.max_audio_values": (1, 1 << 31),
    "limits.max_audio_peak": (1.0, 1e6),
    "limits.min_audio_rms_dbfs": (-1_000.0, 0.0),
}
# For a number of a parameter block that is not in the table.
_OTHER: Final = (0, 1 << 33)

# model/config.json, by the last part of the name, at any depth.
MODEL: Final[Mapping[str, Range]] = {
    **dict.fromkeys(
        ("num_hidden_layers", "encoder_layers", "depth", "num_layers", "max_window_layers"),
        (1, 1_024),
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "num_key_value_heads",
            "num_heads",
            "encoder_attention_heads",
            "num_global_key_value_heads",
        ),
        (1, 1_024),
    ),
    **dict.fromkeys(
        (
            "hidden_size",
            "intermediate_size",
            "d_model",
            "encoder_ffn_dim",
            "output_dim",
            "out_hidden_size",
            "head_dim",
            "global_head_dim",
        ),
        (1, 1 << 18),
    ),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), (1, 1 << 24)),
    "max_position_embeddings": (1, 1 << 26),
    "position_embedding_size": (1, 1 << 20),
    "max_source_positions": (1, 1 << 18),
    "patch_size": (1, 256),
    "spatial_merge_size": (1, 16),
    "spatial_patch_size": (1, 256),
    "temporal_patch_size": (1, 16),
    "pooling_kernel_size": (1, 64),
    "in_channels": (1, 64),
    "in_chans": (1, 64),
    "window_size": (1, 1 << 16),
    "num_mel_bins": (1, 4_096),
    "n_window": (1, 1 << 16),
    "position_id_per_seconds": (1, 10_000),
    "tokens_per_second": (1, 10_000),
    "rope_theta": (1.0, 1e12),
    "rms_norm_eps": (0.0, 1.0),
}
_MODEL_INTEGER: Final = (-1, (1 << 31) - 1)
_MODEL_FLOAT: Final = (-1e12, 1e12)

_GOLDEN_CASES: Final = (1, 1_024)
_SPEED: Final[Mapping[str, Range]] = {
    "factor": (1e-3, 1e4),
    "floor_ms": (1e-3, 3.6e6),
    "default_limit_ms": (1e-3, 3.6e6),
}
_SPEED_MEDIAN: Final = (1e-6, 3.6e6)


def within(where: str, value: float, bound: Range, check: str = "config") -> None:
    """Raises BundleRefused(check) for a number that is outside the bound, or not a number."""
    low, high = bound
    if not low <= value <= high:
        raise BundleRefused(
            check, f"{short(where)} is {_number(value)}; allowed is {low:.12g} to {high:.12g}"
        )


def parameter(where: str, value: float) -> None:
    """Checks a number of preprocess.json, template.json or labels.json; `where` is a name such as
    audio.n_fft or image.mean[0]. Raises BundleRefused("config")."""
    within(where, value, PARAMETERS.get(where.partition("[")[0], _OTHER))


def model_config(values: Mapping[str, Any]) -> None:
    """Checks model/config.json. Raises BundleRefused("config") naming the first number out of
    bounds."""
    for name, value in numbers(values):
        last = name.rpartition(".")[2].partition("[")[0]
        other = _MODEL_INTEGER if isinstance(value, int) else _MODEL_FLOAT
        within(f"model/config.json: {name}", value, MODEL.get(last, other))


def speed(values: Mapping[str, float], baseline: Mapping[str, Mapping[str, float]]) -> None:
    """Checks speed.json. Raises BundleRefused("config")."""
    for name, value in values.items():
        within(f"speed.json: {name}", value, _SPEED[name])
    for device, mixes in baseline.items():
        for mix, ms in mixes.items():
            within(f"speed.json: baseline.{device}.{mix}", ms, _SPEED_MEDIAN)


def golden(cases: int, tolerances: Mapping[str, float]) -> None:
    """Checks golden.json. A tolerance of 1 would accept any answer. Raises
    BundleRefused("golden")."""
    within("golden/golden.json: number of cases", cases, _GOLDEN_CASES, "golden")
    for dtype, value in tolerances.items():
        within(f"golden/golden.json: tolerance.{dtype}", value, (1e-9, 0.5), "golden")


def json_shape(path: str, value: object) -> None:
    """Raises BundleRefused("format") naming a field that is nested too deep, or whose number is not
    finite or not exact."""
    for name, number in numbers(value, path):
        if not -MAX_NUMBER <= number <= MAX_NUMBER:
            limit = "finite numbers up to 2**53"
            raise BundleRefused(
                "format", f"{path}: {short(name)} is {_number(number)}; allowed are {limit}"
            )


def numbers(value: object, path: str = "model/config.json") -> Iterator[tuple[str, float]]:
    """(dotted name, number) of every number; booleans are skipped. It does not recurse, because a
    hostile file may be nested very deeply. Raises BundleRefused("format") below MAX_DEPTH
    levels."""
    waiting: list[tuple[tuple[Any, ...], object, int]] = [((), value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        if isinstance(item, bool | str) or item is None:
            continue
        if isinstance(item, int | float):
            yield _dotted(name), item
            continue
        if depth >= MAX_DEPTH:
            place = short(_dotted(name))
            raise BundleRefused(
                "format", f"{path}: {place} is nested deeper than {MAX_DEPTH} levels"
            )
        pairs: Iterable[tuple[Any, object]] = ()
        if isinstance(item, dict):
            pairs = item.items()
        elif isinstance(item, list):
            pairs = enumerate(item)
        waiting += [
            ((name, key), inner, depth + 1)
            for key, inner in pairs
            if type(inner) is not str  # strings are most of a tokenizer, and need no further look
        ]


def short(name: str) -> str:
    """The name, shortened so that a refusal can repeat it."""
    return name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}…"


def _dotted(name: tuple[Any, ...]) -> str:
    parts: list[str] = []
    while name:
        name, key = name
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join(reversed(parts)).lstrip(".")


def _number(value: float) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if not math.isfinite(value):
        return {math.inf: "larger than any number", -math.inf: "smaller than any number"}.get(
            value, "NaN"
        )
    return f"{value:g}" if isinstance(value, float) else str(value)
