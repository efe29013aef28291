"""Small real files made by code: pictures, sounds, and broken or contradictory versions of them."""

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


def id3_tag(size: int = 200, footer: bool = False) -> bytes:
    """An ID3v2.4 tag of padding, as taggers put in front of any file."""
    sizes = bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127))
    flags = b"\x10" if footer else b"\0"
    return b"ID3\4\0" + flags + sizes + bytes(size) + (b"3DI\4\0\x10" + sizes if footer else b"")


def mp3(seconds: float = 1.0, rate: int = SECOND, stereo: bool = False) -> bytes:
    wave = tone(seconds, rate)
    return sound(np.stack([wave, wave], axis=1) if stereo else wave, rate, "MP3")


def without_xing(data: bytes) -> bytes:
    """The frames of an MP3 without the first one, which holds the length."""
    second = data.index(data[:2], 2)
    while data[second + 2] & 0x0C != data[2] & 0x0C:
        second = data.index(data[:2], second + 1)
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    return data[second:]


def wav_claiming(size: int, riff: int | None = None, seconds: float = 1.0) -> bytes:
    """A WAV whose data chunk claims `size` bytes, and whose RIFF header claims `riff`."""
    data = patched(sound(tone(seconds)), 40, "<I", size)
    return data if riff is None else patched(data, 4, "<I", riff)


def flac_claiming(samples: int, seconds: float = 1.0) -> bytes:
    """STREAMINFO's lowest 36 bits there are the number of samples; 0: unknown."""
    data = bytearray(sound(tone(seconds), form="FLAC"))
    bits = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return bytes(data[:18]) + bits.to_bytes(8, "big") + bytes(data[26:])


def ogg_pages(subtype: str = "OPUS", seconds: float = 2.0) -> list[bytes]:
    """The pages of an Ogg file at 48 kHz, headers first."""
    return _pages(sound(tone(seconds, 48_000), 48_000, "OGG", subtype))


def ogg_page(packet: bytes, number: int = 0, flags: int = 0) -> bytes:
    head = b"OggS\0" + bytes((flags,)) + struct.pack("<QIII", 0, 1, number, 0)
    return with_checksum(head + bytes((1, len(packet))) + packet)


def without_end_flag(page: bytes) -> bytes:
    return with_checksum(page[:5] + bytes((page[5] & ~4,)) + page[6:])


def with_checksum(page: bytes) -> bytes:
    """An Ogg page with the right one, whatever was changed in it."""
    changed = bytearray(page)
    changed[22:26] = bytes(4)
    (checksum,) = _ogg_checksums(np.frombuffer(bytes(changed), np.uint8)[None])
    changed[22:26] = struct.pack("<I", int(checksum))
    return bytes(changed)


def flat_png(colour: int, depth: int, sample: tuple[int, ...], transparent: bytes = b"") -> bytes:
    """An 8x8 PNG of one colour: `sample` in every pixel, of PNG colour type `colour` at `depth`
    bits; `transparent` is the body of its tRNS chunk."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    bits = "".join(f"{value:0{depth}b}" for value in sample) * 8
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes((200, 10, 10)) * (1 << depth)) if colour == 3 else b""
    clear = chunk(b"tRNS", transparent) if transparent else b""
    body = chunk(b"IDAT", zlib.compress(row * 8))
    return b"\x89PNG\r\n\x1a\n" + header + palette + clear + body + chunk(b"IEND", b"")
