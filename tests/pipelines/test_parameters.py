"""A parameter block is read completely or refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.bundle import parameters
from pipelines.errors import BundleRefused
from pipelines.media import limits


@dataclass(frozen=True, slots=True)
class Inner:
    size: int


@dataclass(frozen=True, slots=True)
class Outer:
    rate: float
    name: str
    on: bool
    many: tuple[int, ...]
    pair: tuple[str, str]
    inner: Inner


GOOD: dict[str, Any] = {
    "rate": 2,
    "name": "x",
    "on": False,
    "many": [1, 2, 3],
    "pair": ["a", "b"],
    "inner": {"size": 7},
}


def test_block_is_read_typed_and_written_back() -> None:
    found = parameters.read(Outer, GOOD, "here")
    assert found == Outer(2.0, "x", False, (1, 2, 3), ("a", "b"), Inner(7))
    assert isinstance(found.rate, float)
    assert json.loads(json.dumps(parameters.write(found))) == GOOD


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"rate": True}, "here.rate is True"),
        ({"rate": "2"}, "here.rate is '2'"),
        ({"on": 0}, "here.on is 0"),
        ({"many": [1, 2.5]}, r"here.many\[1\] is 2.5"),
        ({"many": 3}, "here.many is 3"),
        ({"pair": ["a"]}, "here.pair has 1 items"),
        ({"inner": {"size": 7, "more": 1}}, "here.inner: unknown keys"),
        ({"inner": 7}, "here.inner is 7"),
    ],
)
def test_block_with_anything_else_is_refused_by_name(change: dict[str, Any], shown: str) -> None:
    with pytest.raises(BundleRefused, match=shown) as caught:
        parameters.read(Outer, {**GOOD, **change}, "here")
    assert caught.value.check == "config"


def test_missing_key_is_refused_although_the_code_has_a_default() -> None:
    values = parameters.write(limits.DEFAULT)
    assert limits.InputLimits.from_dict(values) == limits.DEFAULT
    del values["max_parts"]
    with pytest.raises(BundleRefused, match=r"missing keys \['max_parts'\]"):
        limits.InputLimits.from_dict(values)
