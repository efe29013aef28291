"""Each fuzz target for a moment, and all inputs that once showed a fault."""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.fuzz.media_seeds import seeds
from tests.fuzz.mutation import CHANGES, mutated
from tests.fuzz.run import corpus, tried
from tests.fuzz.targets import TARGETS, Target

INPUTS = 150


@cache
def target(name: str) -> Target:
    return TARGETS[name]()


@pytest.mark.parametrize("name", TARGETS)
def test_whole_inputs_are_no_fault(name: str) -> None:
    for data in target(name).seeds:
        assert tried(target(name), data) is None


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_are_answered_or_refused(name: str) -> None:
    rng = random.Random(f"{name} in the tests")
    for _ in range(INPUTS):
        data = target(name).input(rng)
        assert tried(target(name), data) is None, data[:200]


@pytest.mark.parametrize(
    ("name", "path"),
    [pytest.param(n, p, id=f"{n}-{p.name}") for n in TARGETS for p in corpus(n)] or [("", None)],
)
def test_what_was_a_fault_is_none_any_more(name: str, path: object) -> None:
    if name:
        assert tried(target(name), path.read_bytes()) is None  # type: ignore[attr-defined]


def test_a_target_that_raises_is_a_fault() -> None:
    def check(data: bytes) -> None:
        raise IndexError("of ours")

    assert "IndexError" in (tried(Target([b"x"], check), b"x") or "")


def test_the_same_seed_gives_the_same_bytes() -> None:
    data = [seed.data for seed in seeds()]
    for number, one in enumerate(data):
        first = mutated(random.Random(number), one, data)
        assert first == mutated(random.Random(number), one, data)
    rng = random.Random(0)
    for change in CHANGES:
        assert isinstance(change(rng, b"", [b""]), bytes), "an empty file is a file"
        assert any(change(rng, data[0], data) != data[0] for _ in range(20))
