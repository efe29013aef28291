"""Decodes images to upright RGB pixels on white."""

from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipelines.errors import BadInput
from pipelines.media import frames, work
from pipelines.media.limits import HEADER_WRONG, METADATA_BROKEN, DecodedImage, InputLimits
from pipelines.media.truncation import check_not_truncated, cut_jpeg, with_end

_ORIENTATION_TAG = 0x0112
# EXIF orientation to (transposed, upside down, mirrored), applied in this order.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_STRIP_PIXELS = 1 << 14
_WHOLE_PIXELS = 1 << 22  # up to this size a second copy of an RGB picture is allowed
_TIFF_SCHEMES = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate")
_MODES = frozenset(
    "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I;16 I;16L I;16B I;16N".split()
)
# The exceptions Pillow's decoders are known to raise on broken content.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
    Warning,  # if warnings are errors, Pillow's warnings about corrupt metadata are raised here
)


def decode_image(data: bytes, format: str, field: str, limits: InputLimits) -> DecodedImage:
    """`format` is one of sniff.IMAGE_FORMATS, as found in the content. Raises BadInput."""
    if format == "WEBP":  # Pillow allocates the canvas of a WebP while opening it
        canvas = work.webp_size(data)
        if canvas is None:
            message = "not a whole WEBP image; send the complete file."
            raise BadInput(field, "IMAGE_UNDECODABLE", message)
        _check_size(*canvas, field, limits)
    declared = work.declared_size(data, format)
    declared_pixels = math.prod(declared) if declared else 0
    work.check(data, format, field, declared_pixels or limits.max_image_pixels)
    whole, ended = with_end(data, field) if format == "JPEG" else (data, True)
    image = _open(whole, format, field, limits)
    sent = image.size
    # Pillow enlarges the canvas of a GIF whose first picture extends beyond it.
    contradicts = HEADER_WRONG if declared not in (None, sent) else ""
    _check_size(*image.size, field, limits)
    mode = image.mode
    if mode not in _MODES:
        raise BadInput(
            field,
            "IMAGE_MODE",
            f"{mode} pixels; convert the image to 8 or 16 bits a channel.",
        )
    if format == "TIFF":
        _check_compression(image, field)
        _check_strips(image, field)
    if format == "JPEG" and limits.jpeg_draft_px:
        image.draft("RGB", (limits.jpeg_draft_px, limits.jpeg_draft_px))
    # Pillow turns a TIFF upright while loading it, and then reports no orientation.
    orientation, warning = _orientation(image) if format == "TIFF" else (1, "")
    turned_by_pillow = orientation != 1
    try:
        count = frames.count(image, data, format)
        image.load()
        incomplete = check_not_truncated(image, whole, format, field, ended)
        if not turned_by_pillow:
            orientation, warning = _orientation(image)
        if format == "PNG":
            _scale_transparent_colour(image, data[24])
        pixels = _rgb(image)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(field, "IMAGE_TOO_LARGE", "the image does not fit in memory.") from None
    except _BROKEN as error:
        if not ended:
            raise cut_jpeg(image, field) from None
        raise _undecodable(format, field, error) from None
    if orientation != 1 and not turned_by_pillow:
        pixels = _upright(pixels, orientation)
    return DecodedImage(
        pixels=pixels,
        format=format,
        mode=mode,
        width=pixels.shape[1],
        height=pixels.shape[0],
        payload_bytes=len(data),
        has_orientation=orientation != 1,
        warning=incomplete or contradicts or warning,
        frames=count,
        sent=sent,
    )


def _open(data: bytes, format: str, field: str, limits: InputLimits) -> Image.Image:
    """Opens an image; reads the header only."""
    try:
        return Image.open(io.BytesIO(data), formats=(format,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(
            field,
            "IMAGE_TOO_LARGE",
            f"more than {Image.MAX_IMAGE_PIXELS} pixels; the limit is {limits.max_image_pixels}. "
            "Scale it down.",
        ) from None
    except UnidentifiedImageError:
        raise _undecodable(format, field, "its header is broken") from None
    except _BROKEN as error:
        raise _undecodable(format, field, error) from None


def _undecodable(format: str, field: str, error: object) -> BadInput:
    return BadInput(
        field,
        "IMAGE_UNDECODABLE",
        f"not a whole {format} image ({error}); send the complete file.",
    )


def _check_size(width: int, height: int, field: str, limits: InputLimits) -> None:
    if width < 1 or height < 1:
        raise BadInput(field, "IMAGE_EMPTY", f"the image is {width}x{height} pixels.")
    if width * height > limits.max_image_pixels or max(width, height) > limits.max_image_side:
        raise BadInput(
            field,
            "IMAGE_TOO_LARGE",
            f"{width}x{height} pixels; the limits are {limits.max_image_pixels} pixels and "
            f"{limits.max_image_side} a side. {_scaled_down(width, height, limits)}",
        )
    if max(width, height) > limits.max_image_aspect * min(width, height):
        raise BadInput(
            field,
            "IMAGE_ASPECT",
            f"{width}x{height} pixels; one side may be at most {limits.max_image_aspect:g} times "
            "the other. Crop it.",
        )


def _scaled_down(width: int, height: int, limits: InputLimits) -> str:
    """The largest accepted size with the same aspect, and the command that makes it."""
    scale = min(
        math.sqrt(limits.max_image_pixels / (width * height)),
        limits.max_image_side / max(width, height),
    )
    size = f"{max(1, int(width * scale))}x{max(1, int(height * scale))}"
    return f"Scale it down to {size} or less: magick INPUT -resize {size} OUTPUT.jpg"


def _check_compression(image: Image.Image, field: str) -> None:
    """Refuses schemes that decode truncated data without an error (JPEG, fax)."""
    scheme = image.info.get("compression", "raw")
    if scheme not in _TIFF_SCHEMES:
        raise BadInput(
            field,
            "IMAGE_UNSUPPORTED",
            f"a TIFF compressed with {scheme}; use {', '.join(_TIFF_SCHEMES)}, or another format.",
        )


def _check_strips(image: Image.Image, field: str) -> None:
    """Refuses a TIFF with fewer strips or tiles than its size needs. If they are uncompressed,
    Pillow leaves the missing area black, without an error."""
    tiles = getattr(image, "tile", ())
    raw = [tile[1] for tile in tiles if tile[0] == "raw" and tile[1] is not None]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in raw)
    planes = len(image.getbands()) if _in_planes(image) else 1
    if raw and covered < image.width * image.height * planes:
        raise BadInput(
            field,
            "IMAGE_TRUNCATED",
            f"the header promises {image.height} rows, its strips hold fewer; send the complete "
            "file.",
        )


def _in_planes(image: Image.Image) -> bool:
    """Whether a TIFF stores each colour separately."""
    return bool(getattr(image, "tag_v2", {}).get(_PLANAR_TAG) == 2)


_PLANAR_TAG = 284


def _orientation(image: Image.Image) -> tuple[int, str]:
    """(EXIF orientation, a warning or ""); 1 is upright."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        return 1, METADATA_BROKEN
    upright = isinstance(value, int) and 1 <= value <= 8
    return (value, "") if upright else (1, METADATA_BROKEN)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    transposed, upside_down, mirrored = _TURNS[orientation]
    view = pixels.transpose(1, 0, 2) if transposed else pixels
    view = view[::-1] if upside_down else view
    return np.ascontiguousarray(view[:, ::-1] if mirrored else view)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], converted strip by strip unless it is RGB already and not large.

    A large image is then in memory once with Pillow's four bytes a pixel and once with three bytes
    a pixel here, whatever conversions its mode needs. A strip is small enough for the allocator to
    reuse its memory: new pages for whole images took a third of the time of decoding a 640x480
    JPEG.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    if image.mode == "RGB" and width * height <= _WHOLE_PIXELS and not image.has_transparency_data:
        pixels[:] = np.asarray(image)  # 190 us faster than strips for 640x480
        return pixels
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(_flat(strip))
    return pixels


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Adapts the transparent colour of a PNG. Pillow scales the pixels to 8 bits and leaves that
    colour at `depth`. For 16-bit colours it keeps the high bytes, so those decide."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L" and depth in (2, 4):
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)
    elif isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _flat(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 instead of scaling it, and drops its transparency.
        grey = np.asarray(image).astype(np.uint32)
        scaled = ((grey * 255 + 32767) // 65535).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            scaled[grey == clear] = 255
        image = Image.fromarray(scaled)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image
