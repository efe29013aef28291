"""How far the same requests differ by CPU kernels, threads, buffers and what runs beside them.

    make portable        (python -m benchmarks.portable [--rows 300] [--no-tests] [--only WORD])

300 mixed requests, the golden check of the embedded bundle and the model's tests, under each
setting of the numerical libraries that this CPU has. Every answer is compared with the one of a
plain process with one thread. Exits 1 when a bound of tests/support/tolerance.py, a golden answer
or a test fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.payloads import mixed_pool
from proto import inference_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
TESTS = "audio image features backbone heads collate generate pipeline golden gemma".split()
BATCH = 7  # one row of each modality mix
RATES = (8_000, 11_025, 22_050, 44_100, 48_000)
OFFSETS = (0, 1, 3, 4, 8, 15, 31)  # of a buffer, in float32 values
Answers = dict[str, NDArray[Any]]
Worst = dict[str, tuple[float, str]]  # by bound: units in the last place, and where


@dataclass(frozen=True, slots=True)
class Setting:
    """`needs`: flags of the CPU in /proc/cpuinfo without which the setting means nothing."""

    name: str
    variables: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()
    how: str = ""  # what the child does beside answering: see `answers`
    threads: tuple[int, ...] = (1, 2)
    tests: bool = True


def _one(variable: str, value: str, *needs: str) -> Setting:
    return Setting(f"{variable}={value}", ((variable, value),), needs)


PLAIN = Setting("plain")  # once more in another process: what a restart changes
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


# ---- the child -----------------------------------------------------------------------------------


def answers(requests: Path, threads: int, how: str) -> Answers:
    """What one process answers to the requests, in float32 arrays.

    An array named MEASURE/ITEM is compared on its own; MEASURE/ITEM@N is the same item once more.
    """
    from benchmarks.support.bound import sample
    from pipelines.bundle import golden
    from pipelines.pipeline import EMBEDDED, Pipeline

    pipeline = Pipeline.load(EMBEDDED, "cpu", "float32", threads, allow_dirty=True)
    examples = pb.PredictRequest.FromString(requests.read_bytes()).examples
    samples = [
        replace(sample(number, example), want_embedding=True)
        for number, example in enumerate(examples)
    ]
    ballast = Ballast(how == "buffers")
    with ThreadPoolExecutor(4 if how == "beside" else 1) as pool:
        prepared = list(pool.map(ballast.around(pipeline.prepare), samples))
    found: list[Any] = []
    scored = []
    size = 1 if how == "alone" else BATCH
    for first in range(0, len(prepared), size):
        ballast.move()
        rows = prepared[first : first + size]
        if how == "offsets":
            rows = _moved(pipeline, rows, OFFSETS[first // size % len(OFFSETS)])
        result = pipeline.forward(pipeline.collate(rows))
        arrays = result.fetch()
        scored += list(zip(arrays.log_probs, arrays.embeddings, strict=True))
        found += pipeline.finish(result)
    checked = golden.check(pipeline)
    kinds = [feature.kind == "categorical" for feature in pipeline.features]
    values = np.array([list(one.features.values()) for one in found], np.float32)
    exact = [index for index, yes in enumerate(kinds) if yes and index != _label_index(pipeline)]
    numeric = [index for index, yes in enumerate(kinds) if not yes]
    each = {
        "log-mel with quiet bands": (mel for row in prepared for mel in row.log_mels),
        "patches": (row.pixel_values for row in prepared if row.pixel_values is not None),
        "hidden state": (pooled for _, pooled in scored),
        "log probability": (log_probs for log_probs, _ in scored),
        "probability": (_probabilities(one) for one in found),
        "embedding": (one.embedding for one in found),
    }
    return {
        "golden": np.array(max(result.worst_difference for result in checked)),
        "golden_wrong": np.array([result.reason for result in checked if not result.ok], str),
        "tokens": np.concatenate([row.input_ids for row in prepared]),
        "categories": values[:, exact],
        "label": np.array([one.label for one in found]),
        "margin": np.array([one.margin for one in found]),
        **{f"{kind}/row {i}": np.asarray(x) for kind, xs in each.items() for i, x in enumerate(xs)},
        **{f"feature/{pipeline.features[index].name}": values[:, index] for index in numeric},
        **_clips(OFFSETS if how == "offsets" else (0,)),
        **_states(pipeline, prepared[:BATCH], "hidden state", True),
        **_states(
            Pipeline.load(EMBEDDED, "cpu", "bfloat16", threads, allow_dirty=True),
            prepared[:BATCH],
            "hidden state in bfloat16",
            False,
        ),
    }


def _probabilities(answer: Any) -> list[float]:
    return [score.probability for score in sorted(answer.scores, key=lambda score: score.label)]


def _states(pipeline: Any, rows: Sequence[Any], kind: str, logits: bool) -> Answers:
    """Every prompt token's state, and the logits behind the last one."""
    import torch

    with torch.inference_mode():
        batch = pipeline.collate(rows).batch
        hidden = pipeline.backbone.hidden(batch)
        found = {}
        for row, length in enumerate(batch.prompt_lengths):
            prompt = hidden[row, :length]
            found[f"{kind}/prompt {row}"] = prompt.float().numpy()
            if logits:
                found[f"logit/prompt {row}"] = pipeline.backbone.head(prompt[-1:]).float().numpy()
    return found


def _clips(offsets: Sequence[int]) -> Answers:
    """Log-mel of noise at the model's rate, and of clips that leave bands almost without signal."""
    random = np.random.default_rng(3)

    def noise(count: int) -> NDArray[np.float32]:
        return (0.1 * random.standard_normal(count)).astype(np.float32)

    time_s = np.arange(16_000) / 16_000
    waves = {
        f"log-mel of noise/{n} samples": (noise(n), 16_000)
        for n in (480, 500, 1601, 32_000, 80_001)
    }
    quiet = {"16000 Hz, a pure tone": (np.sin(2000 * np.pi * time_s).astype(np.float32), 16_000)}
    quiet |= {f"{rate} Hz, noise": (noise(rate), rate) for rate in RATES}
    waves |= {f"log-mel with quiet bands/{name}": wave for name, wave in quiet.items()}
    return {
        f"{name}@{offset}": _log_mel(wave, rate, offset)
        for name, (wave, rate) in waves.items()
        for offset in offsets
    }


def _log_mel(wave: NDArray[np.float32], rate: int, offset: int) -> NDArray[np.float32]:
    from pipelines.media.decode import DecodedAudio
    from pipelines.models.qwen.log_mel import DEFAULT, log_mel

    buffer = np.zeros(len(wave) + offset, np.float32)[offset:]
    buffer[:] = wave
    mel: NDArray[np.float32] = log_mel(
        DecodedAudio(buffer[:, None], rate, "WAV", payload_bytes=1), DEFAULT
    ).numpy()
    return mel


def _moved(pipeline: Any, rows: Sequence[Any], offset: int) -> list[Any]:
    """The rows, and the weights in place, copied to that many values behind an aligned address."""
    import torch

    def moved(tensor: Any) -> Any:
        buffer = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)[offset:]
        return buffer.view(tensor.shape).copy_(tensor.detach())

    for weight in pipeline.backbone.model.parameters():
        weight.data = moved(weight)
    return [
        replace(
            row,
            pixel_values=None if row.pixel_values is None else moved(row.pixel_values),
            log_mels=tuple(moved(mel) for mel in row.log_mels),
        )
        for row in rows
    ]


def _label_index(pipeline: Any) -> int:
    return [feature.name for feature in pipeline.features].index("output.label")


class Ballast:
    """Blocks of random sizes that come and go, so that buffers lie elsewhere than without."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._random = random.Random(5)
        self._held: list[bytearray] = []

    def move(self) -> None:
        if self._on:
            for _ in range(self._random.randrange(20)):
                self._held.append(bytearray(self._random.randrange(1, 90_000)))
            self._random.shuffle(self._held)
            del self._held[400:]

    def around(self, function: Any) -> Any:
        def called(value: Any) -> Any:
            self.move()
            return function(value)

        return called


# ---- the parent ----------------------------------------------------------------------------------


def cpu_fields() -> dict[str, str]:
    """Of this CPU; empty where there is no /proc/cpuinfo."""
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
    """Raises SystemExit with what the child printed when it fails."""
    path = folder / "answers.npz"
    command = [sys.executable, "-m", "benchmarks.portable", "--child", str(path)]
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
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
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
    # Other lines may follow pytest's own last one.
    summary = next((n for n in reversed(lines) if re.search(r"\d+ (passed|failed)", n)), lines[-1])
    return re.sub(r" in .*|=", "", summary).strip(), done.returncode == 0


def keep(worst: Worst, kind: str, units: float, where: str) -> None:
    if units > worst.get(kind, (0.0, ""))[0]:
        worst[kind] = units, where


def bounds() -> dict[str, Any]:
    """The bound of each measure: in the child's arrays, and in what the tests report."""
    from tests.support import tolerance

    found = vars(tolerance).values()
    return {bound.name: bound for bound in found if isinstance(bound, tolerance.Bound)}


def distances(found: Answers, plain: Answers) -> dict[str, tuple[float, float, str]]:
    """By measure: the worst in units, the same as a number, and which item it was."""
    from tests.support import tolerance

    worst = {kind: (0.0, 0.0, "") for kind in bounds()}
    for name, ours in found.items():
        kind, _, item = name.partition("/")
        if kind not in worst:
            continue
        base = name.partition("@")[0]
        if kind == "hidden state in bfloat16":  # what the format costs is in it too
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
    """The cells of one line, and what is beyond its bound."""
    cells, wrong = [f"{float(found['golden']):.1e}"], []
    for kind, (units, apart, item) in distances(found, plain).items():
        cells.append(f"{units:.4g} ({apart:.1e})" if units else "0")
        if kind == "feature" and units:  # each in its own unit: the number alone says little
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
    """Prints what MKL_CBWR costs a served request: one server of one replica each, in turn."""
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
    """Prints the table. 0: everything within its bound."""
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


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--no-tests", dest="tests", action="store_false")
    parser.add_argument("--cost", action="store_true", help="only what MKL_CBWR costs when served")
    parser.add_argument("--seconds", type=float, default=3.0, help="with --cost: a measurement")
    parser.add_argument("--rounds", type=int, default=6, help="with --cost")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--how", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.cost:
        cost(arguments.seconds, arguments.rounds)
        return 0
    if arguments.child is None:
        return run(arguments)
    found: dict[str, Any] = {**answers(arguments.requests, arguments.threads, arguments.how)}
    np.savez(arguments.child, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
