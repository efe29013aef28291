"""Readers of settings and flags: each raises ValueError for a text it does not accept."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from server.deploy.remote.location import FetchRefused, locate
from server.ops import simulated_clock
from server.ops.event_log import FORMATS, LEVELS

MIB = 1 << 20
Number = TypeVar("Number", int, float)


def whole(text: str) -> int:
    """A count of at least 1."""
    return _at_least(int(text), 1)


def count(text: str) -> int:
    """A count of at least 0, where 0 means automatic."""
    return _at_least(int(text), 0)


def mib(text: str) -> int:
    """Mebibytes, as bytes."""
    return int(_at_least(float(text), 1 / MIB) * MIB)


def kib(text: str) -> int:
    """Kibibytes, as bytes."""
    return mib(text) // 1024


def seconds(text: str) -> float:
    return _at_least(float(text), 0.0)


def at_least_one(text: str) -> float:
    return _at_least(float(text), 1.0)


def above_zero(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def share(text: str) -> float:
    value = _at_least(float(text), 0.0)
    if value > 1:
        raise ValueError
    return value


def by_stamp(text: str) -> str:
    """A URL in which {stamp} is replaced by each bundle's stamp; "" for none."""
    if text and "{stamp}" not in text:
        raise ValueError
    try:
        if text:
            locate(text.replace("{stamp}", "0" * 64))
    except FetchRefused:
        raise ValueError from None
    return text


def log_format(text: str) -> str:
    return _one_of(text, FORMATS)


def log_level(text: str) -> str:
    return _one_of(text.lower(), LEVELS)


def _one_of(text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ValueError
    return text


def _at_least(value: Number, least: float) -> Number:
    if not value >= least:  # this also refuses NaN
        raise ValueError
    return value


# What a value refused by a reader should have been.
EXPECTED: dict[Callable[[str], Any], str] = {
    whole: "a whole number of at least 1",
    count: "a whole number of at least 0",
    mib: "MiB, more than 0",
    kib: "KiB, more than 0",
    seconds: "seconds, at least 0",
    at_least_one: "a number of at least 1",
    above_zero: "a number above 0",
    share: "a share from 0 to 1",
    by_stamp: "a URL with {stamp} in it, as in https://HOST/bundles/{stamp}",
    log_format: " or ".join(FORMATS),
    log_level: f"one of {', '.join(LEVELS)}",
    simulated_clock.read: "a time with its zone and a speed, e.g. 2026-11-02T00:00Z,4000",
}


def expecting(read: Callable[[str], Any], expected: str = "") -> Callable[[str], Any]:
    """The reader, with an error that names the expected value instead of the reader."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            wanted = expected or EXPECTED.get(read, "something else")
            raise argparse.ArgumentTypeError(f"{text!r}: expected {wanted}") from None

    return convert
