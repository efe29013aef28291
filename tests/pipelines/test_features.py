"""Features measure what they claim to, always have the same names, and are cheap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import feature_stats
from pipelines.features import (
    NAMES,
    PROJECTIONS,
    SCHEMA,
    Projection,
    category,
    certainty,
    embedding_features,
    input_features,
    output_features,
    schema,
    vector,
)
from pipelines.media.decode import DecodedAudio, DecodedImage
from pipelines.models.tokens import Encoded
from tests.support import media_bytes as made

ENCODED = Encoded(np.arange(40), text_tokens=12, unknown=3, truncated=True)
BY_NAME = {feature.name: feature for feature in SCHEMA}
INPUTS = ("text", "image", "audio", "request")


def image(pixels: np.ndarray | None = None, mode: str = "RGB", form: str = "PNG") -> DecodedImage:
    pixels = made.photo(480, 640) if pixels is None else pixels
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, form, mode, width, height, payload_bytes=1000)


def audio(wave: np.ndarray | None = None, rate: int = 16_000) -> DecodedAudio:
    wave = made.tone(2.0, rate) if wave is None else wave
    return DecodedAudio(wave.reshape(len(wave), -1), rate, "WAV", payload_bytes=500)


def test_schema_names_are_unique_and_of_known_kinds() -> None:
    assert len(set(NAMES)) == len(SCHEMA)
    for feature in SCHEMA:
        assert feature.name.startswith(feature.modality + ".")
        assert feature.kind in ("numeric", "categorical")
        assert bool(feature.categories) <= (feature.kind == "categorical")


def test_all_three_modalities_leave_no_input_feature_out() -> None:
    found = input_features(["smoke at unit 3", image(), audio()], ENCODED, 16_000)
    assert set(found) == {f.name for f in SCHEMA if f.modality in INPUTS}
    assert all(math.isfinite(value) for value in found.values())
    mixes = BY_NAME["request.mix"].categories
    assert mixes[int(found["request.mix"])] == "audio+image+text"


@pytest.mark.parametrize(
    ("parts", "present", "mix"),
    [
        (["a b"], {"text"}, "text"),
        ([image()], {"image"}, "image"),
        ([audio()], {"audio"}, "audio"),
        ([audio(), "a b"], {"audio", "text"}, "audio+text"),
    ],
)
def test_absent_modality_is_nan_under_every_name(
    parts: list[str | DecodedImage | DecodedAudio], present: set[str], mix: str
) -> None:
    found = input_features(parts, ENCODED, 16_000)
    for name, value in found.items():
        modality = name.split(".")[0]
        assert math.isnan(value) == (modality not in present | {"request"}), name
    assert BY_NAME["request.mix"].categories[int(found["request.mix"])] == mix


def test_several_items_are_averaged_and_the_first_one_names_the_category() -> None:
    dark, light = np.zeros((64, 64, 3), np.uint8), np.full((128, 64, 3), 255, np.uint8)
    parts: list[str | DecodedImage | DecodedAudio]
    parts = [image(dark, "L", "JPEG"), image(light, "P", "GIF"), "x"]
    found = input_features(parts, ENCODED, 16_000)
    assert found["image.brightness"] == pytest.approx(0.5, abs=1e-3)
    assert found["image.height"] == 96
    assert found["image.format"] == category("image.format", "JPEG")
    assert found["image.mode"] == category("image.mode", "L")
    assert (found["request.images"], found["request.texts"], found["request.audios"]) == (2, 1, 0)
    assert found["request.payload_bytes"] == 2001


def test_category_nobody_knows_is_one_past_the_end() -> None:
    assert category("image.mode", "HSV") == len(BY_NAME["image.mode"].categories)
    labelled = {f.name: f for f in schema(["run", "stop"])}["output.label"]
    assert labelled.categories == ("run", "stop")


def test_text_statistics() -> None:
    found = input_features(["Über 3 Über"], ENCODED, 16_000)
    assert found["text.chars"] == 11 and found["text.bytes"] == 13 and found["text.words"] == 3
    assert found["text.upper_share"] == pytest.approx(2 / 11)
    assert found["text.digit_share"] == pytest.approx(1 / 11)
    assert found["text.non_ascii_share"] == pytest.approx(2 / 11)
    assert found["text.unique_word_share"] == pytest.approx(2 / 3)
    assert found["text.mean_word_chars"] == 3.0
    assert (found["text.tokens"], found["text.truncated"]) == (12, 1)
    assert found["text.unknown_share"] == 0.25
    assert found["request.tokens"] == 40


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("smoke at unit 3", "latin"),
        ("дым у станка", "cyrillic"),
        ("煙が出ています", "kana"),
        ("机器冒烟了", "han"),
        ("연기가 납니다", "hangul"),
        ("καπνός", "greek"),
        ("دخان", "arabic"),
        ("עשן", "hebrew"),
        ("धुआं", "devanagari"),
        ("ควัน", "thai"),
        ("ծուխ", "other"),
        ("123 !? 🔥", "none"),
    ],
)
def test_dominant_script(text: str, script: str) -> None:
    assert feature_stats.text(text).script == script


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(min_size=1))
def test_any_text_gives_shares_between_nothing_and_all(text: str) -> None:
    stats = feature_stats.text(text)
    shares = (stats.digit_share, stats.upper_share, stats.non_ascii_share, stats.unique_word_share)
    assert all(0.0 <= share <= 1.0 for share in shares) and stats.script in feature_stats.SCRIPTS


def test_image_statistics_of_plain_pictures() -> None:
    red = np.zeros((100, 100, 3), np.uint8)
    red[:, :, 0] = 255
    stats = feature_stats.image(red)
    assert stats.brightness == pytest.approx(0.299, abs=1e-3) and stats.saturation == 1.0
    assert stats.contrast == pytest.approx(0.0, abs=1e-6) and stats.entropy == 0.0
    assert stats.sharpness == 0.0
    halves = np.zeros((100, 100, 3), np.uint8)
    halves[:, 50:] = 255
    stats = feature_stats.image(halves)
    assert stats.contrast == pytest.approx(0.5, abs=0.01)
    assert stats.entropy == pytest.approx(1.0, abs=0.1) and stats.saturation == 0.0


def test_thumbnail_sees_what_the_whole_picture_shows() -> None:
    pixels = made.photo(1080, 1920)
    luma = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] / 255.0
    stats = feature_stats.image(pixels)
    assert stats.brightness == pytest.approx(luma.mean(), abs=0.01)
    small = feature_stats.image(made.photo(50, 60))
    assert 0.0 < small.contrast < 0.5


def test_blur_lowers_sharpness() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    blurred = ((noise[:-1].astype(int) + noise[1:]) // 2).astype(np.uint8)
    assert feature_stats.image(blurred).sharpness < feature_stats.image(noise).sharpness / 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (2, 2), (3, 3), (65, 64), (4000, 3)])
def test_picture_of_any_shape_has_finite_statistics(shape: tuple[int, int]) -> None:
    stats = feature_stats.image(np.full((*shape, 3), 7, np.uint8))
    assert stats.brightness == pytest.approx(7 / 255, abs=1e-3) and stats.sharpness == 0.0


def test_audio_statistics_of_a_tone() -> None:
    found = input_features([audio(made.tone(2.0, 44_100, 1000.0), 44_100)], ENCODED, 16_000)
    assert found["audio.rms_dbfs"] == pytest.approx(20 * math.log10(0.3 / math.sqrt(2)), abs=0.01)
    assert found["audio.peak_dbfs"] == pytest.approx(20 * math.log10(0.3), abs=0.01)
    assert found["audio.zero_crossing_rate"] == pytest.approx(2000, rel=0.01)
    assert found["audio.centroid_hz"] == pytest.approx(1000, rel=0.05)
    assert found["audio.snr_db"] < 0.5 and found["audio.silent_share"] == 0.0
    assert found["audio.dc_offset"] == pytest.approx(0.0, abs=1e-4)
    assert (found["audio.resampled"], found["audio.channels"]) == (1, 1)
    assert found["audio.duration_s"] == 2.0 and found["audio.sample_rate"] == 44_100
    assert input_features([audio()], ENCODED, 16_000)["audio.resampled"] == 0


def test_clipping_offset_and_silence_are_seen() -> None:
    wave = np.clip(made.tone(1.0) * np.float32(10), -1, 1)
    clipped = feature_stats.audio(wave[:, None], 16_000)
    assert clipped.clipped_share > 0.5
    shifted = feature_stats.audio((made.tone(1.0) + np.float32(0.2))[:, None], 16_000)
    assert shifted.dc_offset == pytest.approx(0.2, abs=1e-3)
    bursts = made.tone(1.0)
    bursts[8000:] = 1e-5
    half = feature_stats.audio(bursts[:, None], 16_000)
    assert half.silent_share == pytest.approx(0.5, abs=0.02) and half.snr_db > 60


def test_channels_are_mixed_before_they_are_measured() -> None:
    wave = made.tone(1.0)
    opposed = feature_stats.audio(np.stack([wave, -wave], axis=1), 16_000)
    assert opposed.rms_dbfs < -100


@pytest.mark.parametrize("samples", [1, 2, 100, 1023, 1025])
def test_sound_of_any_length_has_statistics(samples: int) -> None:
    stats = feature_stats.audio(np.full((samples, 1), 0.5, np.float32), 16_000)
    assert stats.rms_dbfs == pytest.approx(-6.02, abs=0.01) and stats.snr_db == 0.0


def test_certainty_of_probabilities() -> None:
    sure = certainty(np.array([0.1, 0.7, 0.2]))
    assert sure.confidence == 0.7 and sure.margin == pytest.approx(0.5)
    assert sure.entropy == pytest.approx(0.8018, abs=1e-4)
    alone = certainty(np.array([1.0], np.float32))
    assert (alone.confidence, alone.margin, alone.entropy) == (1.0, 1.0, 0.0)
    even = certainty(np.full(4, 0.25))
    assert even.margin == 0.0 and even.entropy == pytest.approx(math.log(4))
    assert certainty(np.array([1.0, 0.0])).entropy == 0.0


def test_label_brought_by_the_request_is_none_of_the_bundles() -> None:
    sure = certainty(np.array([0.9, 0.1]))
    own = output_features("stop", ["run", "stop"], sure, 0.98)
    assert own["output.label"] == 1.0 and own["output.closed_set_mass"] == 0.98
    assert output_features("dance", ["run", "stop"], sure, 0.98)["output.label"] == 2.0
    assert set(own) == {f.name for f in SCHEMA if f.modality == "output"}


def test_embedding_is_projected_by_direction_and_measured_by_length() -> None:
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((PROJECTIONS, 32)).astype(np.float32)
    mean = rng.standard_normal(32).astype(np.float32)
    vector_ = rng.standard_normal(32).astype(np.float32)
    projection = Projection(mean, axes)
    one, other = (embedding_features(vector_ * k, projection) for k in (1.0, 3.0))
    assert set(one) == {f.name for f in SCHEMA if f.modality == "embedding"}
    assert other["embedding.norm"] == pytest.approx(3 * one["embedding.norm"])
    assert other["embedding.p07"] == pytest.approx(one["embedding.p07"], abs=1e-4)
    unit = vector_ / np.linalg.norm(vector_)
    assert one["embedding.p00"] == pytest.approx(float(axes[0] @ (unit - mean)), abs=1e-4)


def test_without_a_projection_or_a_direction_only_the_length_remains() -> None:
    assert embedding_features(np.ones(4, np.float32), None) == {"embedding.norm": 2.0}
    projection = Projection(np.zeros(4, np.float32), np.ones((PROJECTIONS, 4), np.float32))
    assert embedding_features(np.zeros(4, np.float32), projection) == {"embedding.norm": 0.0}


def test_vector_is_the_schema_in_order_with_nan_for_what_is_missing() -> None:
    blob = vector({"output.margin": 0.5, "request.mix": 6.0})
    assert blob.dtype == np.float32 and len(blob) == len(SCHEMA)
    assert blob[NAMES.index("output.margin")] == 0.5 and blob[NAMES.index("request.mix")] == 6.0
    assert np.isnan(blob).sum() == len(SCHEMA) - 2
