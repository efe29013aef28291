"""Small real files made on the spot: pictures, sounds, and broken or lying versions of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

SECOND = 16_000


def photo(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: smooth blobs of colour, like a picture out of focus."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def image(form: str = "PNG", picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(photo())).save(buffer, form, **options)
    return buffer.getvalue()


def tone(seconds: float = 1.0, rate: int = SECOND, hertz: float = 440.0) -> NDArray[np.float32]:
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def sound(
    wave: NDArray[Any] | None = None,
    rate: int = SECOND,
    form: str = "WAV",
    subtype: str | None = None,
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone() if wave is None else wave, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    copy = bytearray(data)
    struct.pack_into(layout, copy, offset, value)
    return bytes(copy)


def png(width: int, height: int, rows: int, interlace: int = 0) -> bytes:
    """A well-formed RGB PNG whose header claims `height` and whose data holds `rows`."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    body = zlib.compress(rows * (b"\0" + b"\x80" * (3 * width)), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def opus_bomb(size: int) -> bytes:
    """About `size` bytes of valid Ogg Opus: one page of music repeated, hours long."""
    pages = _pages(sound(tone(3.0, 48_000), 48_000, "OGG", "OPUS"))
    head, music = pages[:2], np.frombuffer(pages[2], np.uint8)
    count = size // len(music)
    block = np.tile(music, (count, 1))
    numbers = np.arange(count)
    block[:, 5] = 0
    block[-1, 5] = 4  # end of stream
    block[:, 6:14] = ((numbers + 1) * 48_000).astype("<i8")[:, None].view(np.uint8)
    block[:, 18:22] = (numbers + 2).astype("<u4")[:, None].view(np.uint8)
    block[:, 22:26] = 0
    block[:, 22:26] = _ogg_checksums(block).astype("<u4")[:, None].view(np.uint8)
    return b"".join(head) + block.tobytes()


def _pages(data: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(data):
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(segments) + sum(segments)
        pages.append(data[at:end])
        at = end
    return pages


def _ogg_checksums(pages: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """RFC 3533's CRC of every row at once: polynomial 0x04c11db7, nothing reflected."""
    table = np.arange(256, dtype=np.uint32) << 24
    for _ in range(8):
        table = (table << 1) ^ np.where(table >> 31, np.uint32(0x04C11DB7), np.uint32(0))
    crc = np.zeros(len(pages), np.uint32)
    for column in pages.T:
        crc = (crc << 8) ^ table[(crc >> 24) ^ column]
    return crc
