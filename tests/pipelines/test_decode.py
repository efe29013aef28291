"""Every kind of part decodes; every bad one is refused with its field and reason, in bounded
memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import BadInput
from pipelines.media.decode import (
    DecodedAudio,
    DecodedImage,
    check_parts,
    decode,
    decode_row,
)
from pipelines.types import Modality, Part
from tests.support import media_bytes as made
from tests.support.decoded import FIELD, LIMITS, opened, refusal

WAV = made.sound()


# What a part claims to be


@pytest.mark.parametrize(
    ("data", "kind", "mime", "reason", "field"),
    [
        (made.image("JPEG"), "image", "image/png", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), None, "audio/wav", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), "audio", "image/jpeg", "MIME_MISMATCH", ".mime"),
        (made.image("JPEG"), "audio", "", "KIND_MISMATCH", ".data"),
        (made.image("JPEG"), None, "application/pdf", "MIME_UNSUPPORTED", ".mime"),
        (WAV, "image", "", "KIND_MISMATCH", ".data"),
        ("hum", "image", "", "KIND_MISMATCH", ".data"),
        (b"%PDF-1.7\n\0", None, "", "UNSUPPORTED_PDF", ".data"),
        (b"\1\2\3\0", None, "", "UNKNOWN_FORMAT", ".data"),
        (b"hum", "audio", "", "UNKNOWN_FORMAT", ".data"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image", "", "UNSUPPORTED_POSTSCRIPT", ".data"),
    ],
)
def test_part_that_is_not_what_it_claims_is_refused(
    data: bytes | str, kind: Modality | None, mime: str, reason: str, field: str
) -> None:
    fault = refusal(data, kind, mime)
    assert (fault.reason, fault.field) == (reason, FIELD + field)


@pytest.mark.parametrize("mime", ["image/jpeg", "IMAGE/JPEG; q=1", "image/*", ""])
def test_mime_that_agrees_or_is_general_is_accepted(mime: str) -> None:
    assert opened(made.image("JPEG"), mime=mime).format == "JPEG"


# Text


def test_text_comes_as_str_or_as_utf8() -> None:
    assert decode(Part(None, "Größe 3"), FIELD, LIMITS) == "Größe 3"
    assert decode(Part("text", "Größe 3".encode()), FIELD, LIMITS) == "Größe 3"
    assert decode(Part(None, b"plain", "text/plain; charset=utf-8"), FIELD, LIMITS) == "plain"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"abc\xff", "TEXT_NOT_UTF8"),
        (b"\xc0\xaf", "TEXT_NOT_UTF8"),
        ("a\ud800", "TEXT_NOT_UTF8"),
        ("", "TEXT_EMPTY"),
        (" \n\t\u200b\x00", "TEXT_EMPTY"),
        ("a" * 65_537, "TEXT_TOO_LONG"),
        ("é" * 32_769, "TEXT_TOO_LONG"),
        (b"", "EMPTY"),
    ],
)
def test_bad_text_is_refused(data: bytes | str, reason: str) -> None:
    fault = refusal(data, "text")
    assert fault.reason == reason and fault.field == "parts[2].data"


# Whole rows


def test_row_without_parts_or_with_ten_thousand_is_refused_unread() -> None:
    for parts, reason in (((), "NO_PARTS"), ((Part(None, b"\xff"),) * 10_000, "TOO_MANY_PARTS")):
        with pytest.raises(BadInput) as caught:
            decode_row(parts, LIMITS)
        assert (caught.value.field, caught.value.reason) == ("parts", reason)
    check_parts((Part(None, "a"),) * LIMITS.max_parts, LIMITS)


def test_row_is_limited_in_bytes_before_and_after_decoding() -> None:
    with pytest.raises(BadInput, match="limit is 10"):
        check_parts((Part(None, "x" * 6),) * 2, replace(LIMITS, max_row_bytes=10))
    picture = Part(None, made.image())
    small = replace(LIMITS, max_row_decoded_bytes=3 * 60 * 80 * 2)
    assert len(decode_row([picture] * 2, small)) == 2
    with pytest.raises(BadInput) as caught:
        decode_row([picture] * 3, small)
    assert (caught.value.field, caught.value.reason) == ("parts[2].data", "ROW_TOO_LARGE")


def test_part_over_its_byte_limit_is_refused_unread() -> None:
    fault = refusal(b"\xff" * 100, limits=replace(LIMITS, max_part_bytes=99))
    assert fault.reason == "PART_TOO_LARGE" and "99" in fault.message


def test_threads_decode_the_same_as_one() -> None:
    parts = [Part(None, made.image("JPEG")), Part(None, made.sound(form="FLAC"))] * 8
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda part: decode(part, FIELD, LIMITS), parts))
    for first, other in zip(found[:2] * 8, found, strict=True):
        assert type(first) is type(other)
        if isinstance(first, DecodedImage) and isinstance(other, DecodedImage):
            assert np.array_equal(first.pixels, other.pixels)
        if isinstance(first, DecodedAudio) and isinstance(other, DecodedAudio):
            assert np.array_equal(first.wave, other.wave)


BOMBS = """
import resource, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from pipelines.media.decode import InputLimits, decode
from pipelines.errors import BadInput
from pipelines.types import Part
from tests.support import media_bytes as made

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

decode(Part(None, made.image("WEBP")), "warm", InputLimits())
png = made.png(13_000, 13_000, 40)
webp = b"RIFF\\x16\\0\\0\\0WEBPVP8X\\x0a\\0\\0\\0\\0\\0\\0\\0" + b"\\xff\\x3f\\x00" * 2
opus = made.opus_bomb(25_000_000)
before = peak_mib()
for bomb in (png, webp, opus, opus[: len(opus) // 2]):
    try:
        decode(Part(None, bomb), "parts[0]", InputLimits())
    except BadInput as fault:
        print(fault.reason)
print(peak_mib() - before)
"""


def test_bombs_are_refused_in_little_memory() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(root)], capture_output=True, text=True, check=True
    )
    *reasons, growth = done.stdout.split()
    assert reasons == ["IMAGE_TOO_LARGE"] * 2 + ["AUDIO_TOO_LONG"] * 2
    assert int(growth) < 64


SEEDS = (
    *(made.image(form) for form in ("PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP")),
    *(made.sound(made.tone(0.1), form=form) for form in ("WAV", "FLAC", "OGG", "AIFF", "MP3")),
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=8
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(seed=st.sampled_from(SEEDS), edits=EDITS, keep=st.floats(0.0, 1.0))
def test_damaged_files_decode_or_are_refused_and_nothing_else(
    seed: bytes, edits: list[tuple[float, int, bool]], keep: float
) -> None:
    data = bytearray(seed)
    for where, value, near_start in edits:
        reach = min(len(data), 64) if near_start else len(data)
        data[int(where * (reach - 1))] = value
    damaged = bytes(data) if keep > 0.5 else bytes(data[: int(2 * keep * len(data))])
    try:
        found = decode(Part(None, damaged), FIELD, LIMITS)
    except BadInput as fault:
        assert fault.field.startswith(FIELD) and fault.reason.isupper()
    else:
        assert isinstance(found, str | DecodedImage | DecodedAudio)
