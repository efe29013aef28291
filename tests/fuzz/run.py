"""Seeded, mutated inputs for all code that reads untrusted content:

    python -m tests.fuzz.run [--seconds 120] [--seed 1] [--target NAME ...]

FUZZ_SECONDS sets the time of all targets together. An input that raises anything but a refusal is
written to tests/fuzz/corpus/TARGET/, where the tests try it again, and the run exits 1. The same
seed gives the same inputs; only how far it comes depends on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
MOST_FAULTS = 5  # of one target, then the next one is tried


@dataclass(frozen=True, slots=True)
class Fault:
    data: bytes
    error: str


def faults_of(target: Target, seed: int, until: float, counted: list[int]) -> Iterator[Fault]:
    """One a distinct error, until the monotonic time `until`; `counted[0]` grows with inputs."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while time.monotonic() < until and len(seen) < MOST_FAULTS:
        data = target.input(rng)
        counted[0] += 1
        found = tried(target, data)
        if found is not None and (place := found.splitlines()[-3:-1][0]) not in seen:
            seen.add(place)
            yield Fault(data, found)


def tried(target: Target, data: bytes) -> str | None:
    """The traceback of a fault, or None. Broad: whatever comes out is what is looked for."""
    try:
        target.check(data)
    except Exception:
        return traceback.format_exc()
    return None


def corpus(name: str) -> list[Path]:
    folder = CORPUS / name
    return sorted(folder.iterdir()) if folder.is_dir() else []


def keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutated inputs for everything that reads.")
    seconds = float(os.environ.get("FUZZ_SECONDS", "120"))
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS))
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    failed = 0
    for number, name in enumerate(names):
        target, counted = TARGETS[name](), [0]
        until = time.monotonic() + arguments.seconds / len(names)
        faults = list(faults_of(target, arguments.seed * 1000 + number, until, counted))
        for fault in faults:
            print(f"{name}: {keep(name, fault.data)}\n{fault.error}", file=sys.stderr)
        failed += len(faults)
        print(f"{name}: {counted[0]:,} inputs, {len(faults)} faults", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
