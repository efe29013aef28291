"""Everything that is measured on a GPU, by one command:

    python -m benchmarks.cuda [--device cuda:0] [--out DIR] [--only NAMES] [--seconds 870]

Each section is a separate program in benchmarks/gpu/ with a time limit, so a section that fails or
takes too long does not affect the others. Their results are files in --out; the last output is a
digest of at most 11,000 characters. Without a CUDA device the command reports it and exits 2;
`--device cpu --small` runs the same programs on the CPU with small models. For a host without a
network, `bash benchmarks/cuda_site.sh DIR` makes a folder to copy there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve import ROOT

DIGEST_CHARACTERS = 11_000
# A CPU is slower, and other work on it must not fail the dry run.
SMALL_PATIENCE = 4
_FAULTS = ("Traceback", "Error", "refused", "no time left")


@dataclass(frozen=True, slots=True)
class Section:
    """`program` in benchmarks/gpu/; `limit` in seconds."""

    name: str
    program: str
    limit: float
    flags: tuple[str, ...] = ()


SECTIONS = (
    Section("environment", "environment", 45),
    Section("parity", "parity", 120),
    Section("forward", "forward", 140),
    Section("writing", "writing", 110),
    Section("served", "served", 200),
    Section(
        "served-3b",
        "served",
        240,
        ("--kind", "random-3b", "--pools", "1,2", "--callers", "1,16,64"),
    ),
    Section("shared", "shared", 120),
    Section("launching", "launching", 60),
)


@dataclass(frozen=True, slots=True)
class Done:
    section: Section
    code: int | None  # None: it was ended at its time limit
    took: float
    output: str

    @property
    def line(self) -> str:
        end = "its time was over" if self.code is None else f"exit {self.code}"
        return f"{self.section.name}: {end}, {self.took:.0f} s of {self.section.limit:.0f}"


def run(section: Section, given: argparse.Namespace, out: Path, left: float) -> Done:
    limit = max(5.0, min(section.limit * (SMALL_PATIENCE if given.small else 1), left))
    command = [sys.executable, "-m", f"benchmarks.gpu.{section.program}", *section.flags]
    command += ["--device", given.device, "--bundle", given.bundle, "--budget", f"{limit - 5:g}"]
    command += ["--small"] if given.small else []
    path, code = out / f"{section.name}.txt", None
    began = time.perf_counter()
    with path.open("w") as file:
        # A new session, so that everything it started ends with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 15)
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
    return Done(section, code, time.perf_counter() - began, path.read_text(errors="replace"))


def digest(done: list[Done]) -> str:
    """The summary, and as much of each section as fits: tables and errors first, then the other
    lines."""
    summary = "\n".join(one.line for one in done)
    each = (DIGEST_CHARACTERS - len(summary) - 200) // max(1, len(done))
    parts = [f"## {one.section.name}\n{_shortened(one.output, each - 30)}" for one in done]
    return "\n".join([*parts, "## summary", summary])[-DIGEST_CHARACTERS:]


def _shortened(output: str, characters: int) -> str:
    lines = [line[:220] for line in output.splitlines() if line.strip() and line[:5] != "USDT:"]
    ranked = sorted(range(len(lines)), key=lambda n: (not _matters(lines[n]), n))
    kept, size = set[int](), 0
    for number in ranked:
        size += len(lines[number]) + 1
        if size > characters:
            break
        kept.add(number)
    return "\n".join(line for number, line in enumerate(lines) if number in kept)


def _matters(line: str) -> bool:
    return line.startswith("|") or any(word in line for word in _FAULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", default=str(ROOT / "pipelines/triage/bundle"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, help="folder of the results; default: a temporary one")
    parser.add_argument("--only", default=" ".join(one.name for one in SECTIONS))
    parser.add_argument("--seconds", type=float, default=870.0, help="for all sections together")
    parser.add_argument("--small", action="store_true", help="small models instead of 3B sizes")
    given = parser.parse_args()
    unknown = set(given.only.split()) - {one.name for one in SECTIONS}
    if unknown:
        parser.error(f"--only: unknown {sorted(unknown)}; there are {[s.name for s in SECTIONS]}")
    if given.device.startswith("cuda") and not _has_cuda():
        parser.exit(2, "not run: torch sees no CUDA device here\n")
    out = given.out or Path(tempfile.mkdtemp(prefix="trefoil-cuda-"))
    out.mkdir(parents=True, exist_ok=True)
    seconds = given.seconds * (SMALL_PATIENCE if given.small else 1)
    ends, done = time.perf_counter() + seconds, list[Done]()
    for section in SECTIONS:
        left = ends - time.perf_counter()
        if section.name in given.only.split() and left > 10:
            done.append(run(section, given, out, left))
            print(done[-1].line, flush=True)
    found = digest(done)
    (out / "digest.txt").write_text(found)
    print(f"results: {out}\n\n{found}")
    sys.exit(any(one.code for one in done))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
