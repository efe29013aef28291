"""The features that telemetry monitors: about sixty plain numbers per request and answer.

Images are measured on a thumbnail and a crop, sounds on short frames, so that measuring stays much
cheaper than the forward. A categorical value is its index in `Feature.categories`, or one past the
end for any other value; NaN means that the request has no such part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines import feature_stats
from pipelines.media.decode import DecodedAudio, DecodedImage
from pipelines.media.sniff import IMAGE_FORMATS
from pipelines.models.tokens import Encoded
from pipelines.types import MIXES, MODALITIES, mix_of

PROJECTIONS = 16


@dataclass(frozen=True, slots=True)
class Feature:
    """`kind` numeric or categorical; `modality` text, image, audio, request, output, embedding."""

    name: str
    modality: str
    kind: str
    unit: str
    categories: tuple[str, ...] = ()


_MODES = tuple("RGB L RGBA P CMYK LA 1 I;16 PA YCbCr LAB".split())
_CODECS = ("WAV", "FLAC", "MP3", "AIFF", "VORBIS", "OPUS", "PCM_s16le", "PCM_f32le")


def _numeric(modality: str, names: str, **units: str) -> tuple[Feature, ...]:
    """Features of one modality; the unit is "1" unless given."""
    return tuple(
        Feature(f"{modality}.{name}", modality, "numeric", units.get(name, "1"))
        for name in names.split()
    )


def _category(name: str, categories: tuple[str, ...] = ()) -> Feature:
    return Feature(name, name.split(".")[0], "categorical", "", categories)


SCHEMA: tuple[Feature, ...] = (
    _category("request.mix", tuple(sorted(MIXES))),
    *_numeric("request", "texts images audios payload_bytes tokens", payload_bytes="By"),
    _category("text.script", feature_stats.SCRIPTS),
    *_numeric(
        "text",
        "bytes chars words tokens truncated unknown_share unique_word_share "
        "mean_word_chars digit_share upper_share non_ascii_share",
        bytes="By",
    ),
    _category("image.format", IMAGE_FORMATS),
    _category("image.mode", _MODES),
    *_numeric(
        "image",
        "width height log_area aspect bytes_per_pixel oriented warning brightness "
        "contrast saturation entropy sharpness",
        width="px",
        height="px",
        bytes_per_pixel="By",
        entropy="bit",
    ),
    _category("audio.codec", _CODECS),
    *_numeric(
        "audio",
        "sample_rate channels duration_s resampled rms_dbfs peak_dbfs clipped_share "
        "dc_offset silent_share snr_db zero_crossing_rate centroid_hz",
        sample_rate="Hz",
        duration_s="s",
        rms_dbfs="dB",
        peak_dbfs="dB",
        snr_db="dB",
        zero_crossing_rate="Hz",
        centroid_hz="Hz",
    ),
    _category("output.label"),
    *_numeric("output", "confidence margin entropy closed_set_mass", entropy="nat"),
    *_numeric("embedding", " ".join(["norm", *(f"p{i:02d}" for i in range(PROJECTIONS))])),
)
NAMES: tuple[str, ...] = tuple(feature.name for feature in SCHEMA)
_BY_NAME: Mapping[str, Feature] = {feature.name: feature for feature in SCHEMA}


def schema(labels: Sequence[str]) -> tuple[Feature, ...]:
    """SCHEMA with the bundle's own labels as the categories of `output.label`."""
    return tuple(
        replace(feature, categories=tuple(labels)) if feature.name == "output.label" else feature
        for feature in SCHEMA
    )


def category(name: str, value: str) -> float:
    """The index of `value` among the feature's categories."""
    return _index(value, _BY_NAME[name].categories)


def vector(features: Mapping[str, float]) -> NDArray[np.float32]:
    """float32 [len(SCHEMA)] in schema order; missing features are NaN."""
    return np.array([features.get(name, math.nan) for name in NAMES], dtype=np.float32)


def input_features(
    parts: Sequence[str | DecodedImage | DecodedAudio],
    encoded: Encoded,
    target_rate: int,
) -> dict[str, float]:
    """Every text.*, image.*, audio.* and request.* feature of one decoded row.

    Numbers are averaged over several images or sounds; categories are those of the first.
    `target_rate` is the model's sample rate in hertz.
    """
    texts = [part for part in parts if isinstance(part, str)]
    images = [part for part in parts if isinstance(part, DecodedImage)]
    audios = [part for part in parts if isinstance(part, DecodedAudio)]
    found = _request(texts, images, audios)
    found["request.tokens"] = float(len(encoded.input_ids))
    if texts:
        found |= _text("\n".join(texts), encoded)
    if images:
        found |= _mean([_image(image) for image in images])
        found["image.format"] = category("image.format", images[0].format)
        found["image.mode"] = category("image.mode", images[0].mode)
    if audios:
        found |= _mean([_audio(audio, target_rate) for audio in audios])
        found["audio.codec"] = category("audio.codec", audios[0].codec)
    return {
        feature.name: found.get(feature.name, math.nan)
        for feature in SCHEMA
        if feature.modality in (*MODALITIES, "request")
    }


@dataclass(frozen=True, slots=True)
class Certainty:
    """The largest of K probabilities, its lead over the second, and the entropy in nats."""

    confidence: float
    margin: float
    entropy: float


def certainty(probabilities: NDArray[np.floating]) -> Certainty:
    """`probabilities` [K], K >= 1, sums to 1."""
    ordered = np.sort(np.asarray(probabilities, dtype=np.float64))[::-1]
    positive = ordered[ordered > 0.0]
    return Certainty(
        confidence=float(ordered[0]),
        margin=float(ordered[0] - ordered[1]) if len(ordered) > 1 else float(ordered[0]),
        entropy=max(0.0, float(-(positive * np.log(positive)).sum())),
    )


def output_features(
    label: str, labels: Sequence[str], sure: Certainty, closed_set_mass: float
) -> dict[str, float]:
    """`labels` is the bundle's label set. A label that only the request names gets the index one
    past the end."""
    return {
        "output.label": _index(label, labels),
        "output.confidence": sure.confidence,
        "output.margin": sure.margin,
        "output.entropy": sure.entropy,
        "output.closed_set_mass": closed_set_mass,
    }


@dataclass(frozen=True, slots=True)
class Projection:
    """The mean float32 [H] and the whitened principal axes float32 [PROJECTIONS, H] of the
    L2-normalised reference embeddings."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]


def embedding_features(
    embedding: NDArray[np.float32], projection: Projection | None
) -> dict[str, float]:
    """`embedding` [H] before L2 normalisation: its length is one feature, its direction is
    projected."""
    norm = float(np.linalg.norm(embedding))
    found = {"embedding.norm": norm}
    if projection is not None and norm > 0.0:
        values = projection.axes @ (embedding / np.float32(norm) - projection.mean)
        found |= {f"embedding.p{i:02d}": float(value) for i, value in enumerate(values)}
    return found


def _index(value: str, categories: Sequence[str]) -> float:
    return float(categories.index(value) if value in categories else len(categories))


def _mean(items: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(item[name] for item in items) / len(items) for name in items[0]}


def _request(
    texts: Sequence[str], images: Sequence[DecodedImage], audios: Sequence[DecodedAudio]
) -> dict[str, float]:
    present = (("audio", audios), ("image", images), ("text", texts))
    payload = sum(len(text.encode()) for text in texts)
    payload += sum(image.payload_bytes for image in images)
    payload += sum(audio.payload_bytes for audio in audios)
    return {
        "request.mix": category("request.mix", mix_of(name for name, items in present if items)),
        "request.texts": float(len(texts)),
        "request.images": float(len(images)),
        "request.audios": float(len(audios)),
        "request.payload_bytes": float(payload),
    }


def _text(text: str, encoded: Encoded) -> dict[str, float]:
    stats = feature_stats.text(text)
    return {
        "text.script": category("text.script", stats.script),
        "text.bytes": float(len(text.encode())),
        "text.chars": float(len(text)),
        "text.words": float(stats.words),
        "text.tokens": float(encoded.text_tokens),
        "text.truncated": float(encoded.truncated),
        "text.unknown_share": encoded.unknown / max(1, encoded.text_tokens),
        "text.unique_word_share": stats.unique_word_share,
        "text.mean_word_chars": stats.mean_word_chars,
        "text.digit_share": stats.digit_share,
        "text.upper_share": stats.upper_share,
        "text.non_ascii_share": stats.non_ascii_share,
    }


def _image(image: DecodedImage) -> dict[str, float]:
    stats = feature_stats.image(image.pixels)
    area = image.width * image.height
    return {
        "image.width": float(image.width),
        "image.height": float(image.height),
        "image.log_area": math.log(area),
        "image.aspect": image.width / image.height,
        "image.bytes_per_pixel": image.payload_bytes / area,
        "image.oriented": float(image.has_orientation),
        "image.warning": float(bool(image.warning)),
        "image.brightness": stats.brightness,
        "image.contrast": stats.contrast,
        "image.saturation": stats.saturation,
        "image.entropy": stats.entropy,
        "image.sharpness": stats.sharpness,
    }


def _audio(audio: DecodedAudio, target_rate: int) -> dict[str, float]:
    stats = feature_stats.audio(audio.wave, audio.sample_rate)
    return {
        "audio.sample_rate": float(audio.sample_rate),
        "audio.channels": float(audio.channels),
        "audio.duration_s": audio.seconds,
        "audio.resampled": float(audio.sample_rate != target_rate),
        "audio.rms_dbfs": stats.rms_dbfs,
        "audio.peak_dbfs": stats.peak_dbfs,
        "audio.clipped_share": stats.clipped_share,
        "audio.dc_offset": stats.dc_offset,
        "audio.silent_share": stats.silent_share,
        "audio.snr_db": stats.snr_db,
        "audio.zero_crossing_rate": stats.zero_crossing_rate,
        "audio.centroid_hz": stats.centroid_hz,
    }
