"""Invalid values from a caller are refused before any network call, with the name of the
argument."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trefoil
from pipelines.media.decode import DecodedImage, InputLimits, decode
from pipelines.types import Part
from tests.support import media_bytes as made
from trefoil.options import Options

NOBODY = "127.0.0.1:9"  # nothing listens there


def shown(part: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a server decodes from it."""
    found = decode(Part("image", part.data), "parts[0]", InputLimits())
    assert isinstance(found, DecodedImage) and not found.warning
    return found.pixels


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: trefoil.text("\ud800"), "content"),
        (lambda: trefoil.text("a\udfffb"), "content"),
        (lambda: trefoil.text(5), "content"),  # type: ignore[arg-type]
        (lambda: trefoil.text(None), "content"),  # type: ignore[arg-type]
        (lambda: trefoil.text(b"x"), "content"),  # type: ignore[arg-type]
        (lambda: trefoil.image(None), "source"),
        (lambda: trefoil.image(5), "source"),
        (lambda: trefoil.image(np.zeros((4, 4, 3))), "source"),
        (lambda: trefoil.image(np.zeros((3, 40, 40), np.uint8)), "source"),
        (lambda: trefoil.image(np.zeros((0, 4), np.uint8)), "source"),
        (lambda: trefoil.image(np.zeros(4, np.uint8)), "source"),
        (lambda: trefoil.audio(None), "source"),  # type: ignore[arg-type]
        (lambda: trefoil.audio(np.zeros(4, np.float32)), "source"),  # type: ignore[arg-type]
        (lambda: trefoil.pcm(np.zeros(4), 16_000), "samples"),
        (lambda: trefoil.pcm("abc", 16_000), "samples"),
        (lambda: trefoil.pcm(b"", 0), "rate_hz"),
        (lambda: trefoil.pcm(b"", 16_000, channels=-1), "channels"),
    ],
)
def test_part_that_cannot_be_sent_names_its_argument(
    make: Callable[[], Any], argument: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: "):
        make()


@pytest.mark.parametrize(
    ("option", "value", "where"),
    [
        ("labels", ["a", "b\0"], r"labels\[1\]"),
        ("labels", ["a" * 10_000], r"labels\[0\]"),
        ("labels", ["\ud800"], r"labels\[0\]"),
        ("labels", [5], r"labels\[0\]"),
        ("labels", [" "], r"labels\[0\]"),
        ("labels", "yes", "labels"),
        ("slices", {"site": "a\0"}, r"slices\['site'\]"),
        ("slices", {"site": "a" * 10_000}, r"slices\['site'\]"),
        ("slices", {"site": 5}, r"slices\['site'\]"),
        ("slices", {"a" * 10_000: "b"}, "slices"),
        ("slices", {"": "b"}, "slices"),
        ("slices", ["site"], "slices"),
        ("session", "a\0", "session"),
        ("session", "a" * 10_000, "session"),
        ("session", "gr\u00f6\u00dfe", "session"),
        ("session", "a\nb", "session"),
        ("session", None, "session"),
        ("caller", "a\0", "caller"),
        ("trace_parent", "\u00e9", "trace_parent"),
    ],
)
def test_option_that_cannot_be_sent_is_named(option: str, value: Any, where: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{where}: "):
        Options(**{option: value})
    with (
        trefoil.Client(NOBODY) as client,
        pytest.raises((TypeError, ValueError), match=f"^{where}: "),
    ):
        client.predict(trefoil.text("a"), **{option: value})


@pytest.mark.parametrize("value", ["text", b"text", 5, None, {"text": "a"}])
def test_what_is_not_a_part_is_named_with_the_remedy(value: Any) -> None:
    good = trefoil.text("a")
    with trefoil.Client(NOBODY) as client:
        with pytest.raises(TypeError, match=r"^parts\[1\]: .* text\(\.\.\.\)"):
            client.predict(good, value)
        with pytest.raises(TypeError, match=r"^parts\[1\]: "):
            client.generate(good, value)
        with pytest.raises(TypeError, match=r"^examples\[1\]\[0\]: "):
            client.predict_many([[good], [value]])


@pytest.mark.parametrize("examples", ["text", ["text"], [trefoil.text("a")]])
def test_examples_that_are_not_lists_of_parts_are_named(examples: Any) -> None:
    with trefoil.Client(NOBODY) as client, pytest.raises(TypeError, match=r"^examples"):
        client.predict_many(examples)


# ---- what is simply accepted ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_array_of_pixels_is_sent_as_it_is(shape: tuple[int, ...], kind: type) -> None:
    top = np.iinfo(kind).max
    values = np.random.default_rng(0).integers(0, top, shape, endpoint=True, dtype=kind)
    if shape[-1] == 4:
        values[..., 3] = top  # opaque
    wanted = values.reshape(5, 7, -1)[..., :3].astype(np.float64) * 255 / top
    assert np.abs(shown(trefoil.image(values)) - wanted).max() <= 1.0


def test_view_of_an_array_is_sent_as_it_looks() -> None:
    values = made.photo(40, 60)
    assert np.array_equal(shown(trefoil.image(values[::-2, ::3])), values[::-2, ::3])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "I;16"])
def test_picture_of_every_mode_is_sent(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 8), 32_768, np.uint16))
    else:
        picture = Image.new("RGB", (8, 6), (200, 60, 60)).convert(mode)
    assert shown(trefoil.image(picture)).shape == (6, 8, 3)


def test_orientation_of_an_opened_photo_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = made.image("JPEG", exif=exif)
    assert shown(trefoil.image(Image.open(io.BytesIO(data)))).shape == (80, 60, 3)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_are_content(wrap: Callable[[bytes], Any]) -> None:
    assert trefoil.image(wrap(b"abc")).data == b"abc"


def test_array_of_samples_needs_no_layout() -> None:
    stereo = np.zeros((100, 2), np.float32)
    part = trefoil.pcm(stereo, 16_000)
    assert part.pcm.channels == 2 and len(part.data) == 800
    assert len(trefoil.pcm(np.zeros(100, np.int16), 8_000).data) == 200


def test_path_gives_the_part_its_name(tmp_path: Path) -> None:
    (tmp_path / "station.pdf").write_bytes(b"%PDF-")
    assert trefoil.image(tmp_path / "station.pdf").id == "station.pdf"
