"""Counts the pictures in a file, of which only the first is used. The count comes from the
structure of the file, in a bounded number of steps, without decoding."""

from __future__ import annotations

import struct

from PIL import Image

from pipelines.media.work import colour_table_bytes

MOST_STEPS = 400_000  # blocks of a GIF or directories of a TIFF, in all


def count(image: Image.Image, data: bytes, format: str) -> int:
    """The number of pictures, at least 1; for a file with more than MOST_STEPS steps, the number
    found until then. `image` is open."""
    if format == "GIF":
        return max(1, _gif(data))
    if format == "TIFF":
        return max(1, _tiff(data))
    found = getattr(image, "n_frames", 1)  # PNG, WebP, MPO: from a header
    return max(1, found) if isinstance(found, int) else 1


def _gif(data: bytes) -> int:
    at, found, steps = 13 + colour_table_bytes(data[10:11]), 0, 0
    while steps < MOST_STEPS:
        steps += 1
        kind = data[at : at + 1]
        if kind == b"!":
            at += 2
        elif kind == b",":
            found += 1
            at += 11 + colour_table_bytes(data[at + 9 : at + 10])
        elif kind and kind != b";":
            at += 1 + kind[0]  # a sub-block
            continue
        else:
            return found
        # Sub-blocks follow; the last one has size 0.
        while steps < MOST_STEPS:
            steps += 1
            size = data[at : at + 1]
            if not size:
                return found
            at += 1 + size[0]
            if not size[0]:
                break
    return found


def _tiff(data: bytes) -> int:
    order = "<" if data[:2] == b"II" else ">"
    seen: set[int] = set()
    at = int.from_bytes(data[4:8], "little" if order == "<" else "big")
    while at and at not in seen and at + 2 <= len(data) and len(seen) < MOST_STEPS:
        seen.add(at)
        (entries,) = struct.unpack_from(order + "H", data, at)
        link = at + 2 + 12 * entries
        if link + 4 > len(data):
            break
        (at,) = struct.unpack_from(order + "I", data, link)
    return len(seen)
