"""How far answers to the same requests differ with CPU kernels, threads, buffers and other work.

    make portable        (python -m benchmarks.portable [--rows 300] [--no-tests] [--only WORD])

It runs 300 mixed requests, the golden check of the embedded bundle and the model's tests under each
setting of the numerical libraries that this CPU supports. Every answer is compared with the one of
a plain process with one thread. Exits 1 when a bound of tests/support/tolerance.py, a golden answer
or a test fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.support.payloads import mixed_pool
from benchmarks.support.portable_answers import Answers
from proto import inference_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
TESTS = "audio image features backbone heads collate generate pipeline golden gemma".split()
Worst = dict[str, tuple[float, str]]  # by bound: (units in the last place, where)


@dataclass(frozen=True, slots=True)
class Setting:
    """`needs`: flags of the CPU in /proc/cpuinfo without which the setting has no effect."""

    name: str
    variables: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
    how: str = ""  # what the child does besides answering: see portable_answers.py
    threads: tuple[int, ...] = (1, 2)
    tests: bool = True


def _one(variable: str, value: str, *needs: str) -> Setting:
    return Setting(f"{variable}={value}", ((variable, value),), needs)


PLAIN = Setting("plain")  # repeated in another process: the effect of a restart
SETTINGS = (
    PLAIN,
    Setting("other buffers", how="buffers", tests=False),
    Setting("other offsets", how="offsets", tests=False),
    Setting("four threads prepare, two busy processes", how="beside", threads=(2,), tests=False),
    Setting("each row alone", how="alone", threads=(1,), tests=False),
    _one("ATEN_CPU_CAPABILITY", "default"),
    _one("ATEN_CPU_CAPABILITY", "avx2", "avx2"),
    _one("ATEN_CPU_CAPABILITY", "avx512", "avx512f"),
    _one("MKL_CBWR", "COMPATIBLE"),
    _one("MKL_CBWR", "AUTO,STRICT", "avx2"),
    _one("ONEDNN_MAX_CPU_ISA", "SSE41", "sse4_1"),
    _one("ONEDNN_MAX_CPU_ISA", "AVX2", "avx2"),
    _one("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", "avx512f", "avx512bw", "avx512vl", "avx512dq"),
)


def cpu_fields() -> dict[str, str]:
    """Fields of this CPU; empty if there is no /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    return dict(re.findall(r"^(model name|cpu family|model|flags)\s*:\s*(.*)$", text, re.M))


def cpu_name(fields: dict[str, str]) -> str:
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {fields.get('cpu family')}, model {fields.get('model')})"


def environment(setting: Setting, threads: int) -> dict[str, str]:
    ours = {variable for one in SETTINGS for variable, _ in one.variables}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, **dict(setting.variables), "OMP_NUM_THREADS": str(threads)}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measured(setting: Setting, threads: int, folder: Path) -> Answers:
    """Raises SystemExit with the child's output when it fails."""
    path = folder / "answers.npz"
    command = [sys.executable, "-m", "benchmarks.support.portable_answers", "--out", str(path)]
    command += ["--requests", str(folder / "requests"), "--threads", str(threads)]
    command += ["--how", setting.how]
    with busy(2 if setting.how == "beside" else 0):
        done = subprocess.run(
            command, cwd=ROOT, env=environment(setting, threads), capture_output=True, text=True
        )
    if done.returncode != 0:
        raise SystemExit(f"{setting.name}, {threads} threads:\n{done.stderr[-3000:]}")
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def tested(setting: Setting, threads: int, worst: Worst) -> tuple[str, bool]:
    """The model's tests under this setting: how many passed, and whether all did."""
    tests = [f"tests/pipelines/test_{name}.py" for name in TESTS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("-p", "tests.support.worst_apart", *tests),
        ],
        cwd=ROOT,
        env=environment(setting, threads),
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines() or ["nothing printed"]
    for line in lines:
        if line.startswith("FAILED"):
            print(f"    {line}", flush=True)
        if found := re.fullmatch(r"apart: (.+): ([\d.einf]+) in (\S+)", line):
            where = f"{found[3].removeprefix('tests/pipelines/')}, {setting.name}, {threads}"
            keep(worst, found[1], float(found[2]), where)
    # Other lines may follow pytest's last line.
    summary = next((n for n in reversed(lines) if re.search(r"\d+ (passed|failed)", n)), lines[-1])
    return re.sub(r" in .*|=", "", summary).strip(), done.returncode == 0


def keep(worst: Worst, kind: str, units: float, where: str) -> None:
    if units > worst.get(kind, (0.0, ""))[0]:
        worst[kind] = units, where


def bounds() -> dict[str, Any]:
    """The bound of each measure, for the child's arrays and for the tests' reports."""
    from tests.support import tolerance

    found = vars(tolerance).values()
    return {bound.name: bound for bound in found if isinstance(bound, tolerance.Bound)}


def distances(found: Answers, plain: Answers) -> dict[str, tuple[float, float, str]]:
    """By measure: the worst distance in units, the same as a number, and which item it was."""
    from tests.support import tolerance

    worst = {kind: (0.0, 0.0, "") for kind in bounds()}
    for name, ours in found.items():
        kind, _, item = name.partition("/")
        if kind not in worst:
            continue
        base = name.partition("@")[0]
        if kind == "hidden state in bfloat16":  # it contains the error of the format too
            base = base.replace(kind, "hidden state")
        theirs = plain.get(base, plain.get(f"{base}@0"))
        assert theirs is not None, f"{base} is not among the plain process's"
        units = tolerance.apart(ours, theirs, bounds()[kind].bits)
        if units > worst[kind][0]:
            unequal = ours != theirs
            apart = float(np.nanmax(np.abs(ours[unequal] - theirs[unequal])))
            worst[kind] = units, apart, item
    return worst


def compare(
    found: Answers, plain: Answers, worst: Worst, where: str
) -> tuple[list[str], list[str]]:
    """The cells of one line, and what exceeds its bound."""
    cells, wrong = [f"{float(found['golden']):.1e}"], []
    for kind, (units, apart, item) in distances(found, plain).items():
        cells.append(f"{units:.4g} ({apart:.1e})" if units else "0")
        if kind == "feature" and units:  # each has its own unit, so the number alone shows little
            cells[-1] = f"{units:.4g} {item}"
        keep(worst, kind, units, f"{item}, {where}")
        if not units <= bounds()[kind].units:
            wrong.append(f"{kind}: {units:.1f} units, bound {bounds()[kind].units:g}")
    wrong += [f"golden: {reason}" for reason in found["golden_wrong"]]
    flipped = found["label"] != plain["label"]
    margin = (
        float(np.minimum(found["margin"], plain["margin"])[flipped].max()) if any(flipped) else 0
    )
    cells.append(f"{int(flipped.sum())}" + (f" (margin {margin:.1e})" if margin else ""))
    for name in ("tokens", "categories"):
        if not np.array_equal(found[name], plain[name], equal_nan=name == "categories"):
            wrong.append(f"{name} are not equal to the bit")
    return cells, wrong


def cost(seconds: float, rounds: int) -> None:
    """Prints the cost of MKL_CBWR for a served request: servers of one replica, in turn."""
    from benchmarks.serve import LoadClient, serving
    from pipelines.pipeline import EMBEDDED

    kinds = ("", "AUTO,STRICT", "COMPATIBLE")
    spent: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as running:
        servers = {}
        for kind in kinds:
            variables = {"MKL_CBWR": kind} if kind else {}
            ours = serving(str(EMBEDDED), 1, ["--no-telemetry"], variables)
            servers[kind] = running.enter_context(ours)
        load = running.enter_context(LoadClient())
        for turn in range(rounds):
            for callers in (1, 64):
                for kind in kinds if turn % 2 == 0 else kinds[::-1]:
                    before = servers[kind].cpu_s()[1]
                    done = load.measure([servers[kind].target], callers, seconds)
                    each = (servers[kind].cpu_s()[1] - before) / done["requests"] * 1e3
                    spent.setdefault((kind, callers), []).append(each)
    print("| MKL_CBWR | 1 caller, CPU ms a request | 64 callers | of unset |\n|---|---|---|---|")
    for kind in kinds:
        one, many = (median(spent[kind, callers]) for callers in (1, 64))
        shares = [
            f"{median(a / b for a, b in zip(spent[kind, n], spent['', n], strict=True)):.3f}"
            for n in (1, 64)
        ]
        print(f"| {kind or 'unset'} | {one:.2f} | {many:.2f} | {' and '.join(shares)} |")


def table(lines: Sequence[str]) -> str:
    kinds = " | ".join(bounds())
    columns = 5 + len(bounds())
    head = f"| setting | threads | golden | {kinds} | flips | tests |"
    return "\n".join((head, "|---" * columns + "|", *lines))


def bounds_table(worst: Worst) -> str:
    """The rows of "What may differ" in docs/bundle.md."""
    lines = ["| value | worst measured | where | bound |", "|---|---|---|---|"]
    for kind, bound in bounds().items():
        units, where = worst.get(kind, (0.0, "nowhere"))
        lines.append(f"| {kind} | {units:.4g} | {where} | {bound.units:g} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; returns 0 if everything is within its bound."""
    fields = cpu_fields()
    print(f"{cpu_name(fields)}, {os.cpu_count()} cores, Python {platform.python_version()}")
    has, failed, lines = frozenset(fields.get("flags", "").split()), [], []
    worst: Worst = {}
    chosen = [one for one in SETTINGS if arguments.only in one.name]
    with tempfile.TemporaryDirectory() as folder:
        requests = pb.PredictRequest(examples=mixed_pool(arguments.rows, seed=10))
        (Path(folder) / "requests").write_bytes(requests.SerializeToString())
        plain = measured(PLAIN, 1, Path(folder))
        for setting in chosen:
            missing = [flag for flag in setting.needs if flag not in has]
            if missing:
                print(f"skipped {setting.name}: this CPU lacks {' '.join(missing)}", flush=True)
        usable = [one for one in chosen if has.issuperset(one.needs)]
        for threads, setting in itertools.product((1, 2), usable):
            if threads not in setting.threads:
                continue
            began = time.perf_counter()
            where = f"{setting.name}, {threads}"
            cells, wrong = compare(measured(setting, threads, Path(folder)), plain, worst, where)
            if arguments.tests and setting.tests:
                result, passed = tested(setting, threads, worst)
                cells.append(result)
                wrong += [] if passed else [f"tests: {result}"]
            else:
                cells.append("-")
            lines.append(f"| {setting.name} | {threads} | " + " | ".join(cells) + " |")
            print(f"{lines[-1]}  {time.perf_counter() - began:.0f} s", flush=True)
            failed += [f"{setting.name}, {threads} threads: {text}" for text in wrong]
    print("\n".join(("", table(lines), "", bounds_table(worst), "", *failed)))
    print(f"{arguments.rows} mixed requests: {len(failed)} beyond a bound")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--no-tests", dest="tests", action="store_false")
    parser.add_argument("--cost", action="store_true", help="only what MKL_CBWR costs when served")
    parser.add_argument("--seconds", type=float, default=3.0, help="with --cost: a measurement")
    parser.add_argument("--rounds", type=int, default=6, help="with --cost")
    arguments = parser.parse_args(argv)
    if arguments.cost:
        cost(arguments.seconds, arguments.rounds)
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
