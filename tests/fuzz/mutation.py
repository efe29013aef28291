"""Seeded changes of bytes, for every fuzz target: the same seed and input give the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to three changes of `data`; `others` are what splices take their other half from."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(CHANGES)(rng, data, others)
    return data


def flip_bits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_head(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Within the first 64 bytes, where headers lie."""
    return flip_bits(rng, data[:64], others) + data[64:]


def truncate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def splice_head(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The head of one file before the rest of another."""
    other = rng.choice(others)
    cut = rng.choice((4, 8, 16, 32, 44, 64, 128, rng.randrange(len(other) + 1)))
    return other[:cut] + data[cut:]


def extreme_field(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight bytes that hold a length, a count or a rate become an extreme one."""
    width, value = rng.choice((1, 2, 4, 8)), rng.choice(_EXTREMES)
    at = rng.randrange(max(1, min(len(data), rng.choice((64, 512, 1 << 30)))))
    return data[:at] + bytes([value]) * width + data[at + width :]


def repeat_range(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[begin:end] * rng.choice((1, 2, 8)) + data[end:]


def remove_range(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    begin = rng.randrange(len(data) + 1)
    return data[:begin] + data[begin + rng.choice((1, 2, 4, 16, 256)) :]


def insert_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16))) + data[at:]


CHANGES: tuple[Change, ...] = (
    flip_bits,
    flip_head,
    truncate,
    splice_head,
    extreme_field,
    repeat_range,
    remove_range,
    insert_bytes,
)
