"""`server tune`: the search over scripted servers, and a short one over real ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proto import inference_pb2 as pb
from server.commands import tune
from server.commands.settings import settings_of
from server.main import parser
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from server.tuning.grid import DEFAULT, Setting, grid
from server.tuning.objective import Comparison, LoadResult, Trial, TuningObjective
from server.tuning.search import Found, Search
from tests.support.patience import patience
from tests.support.telemetry_bench import SCHEMA, Clock, bundle, record

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVE = TuningObjective(deadline_s=1.0, p99_ms=100.0)
FASTER = Setting(warm_pool=2)
SLOWER = Setting(warm_pool=2, max_batch_rows=4)


@dataclass
class Machine:
    """Servers that answer at a rate of their own, and a clock that only they move. `noise` is what
    each measurement in turn multiplies the rate by."""

    rates: dict[Setting, float]
    start_s: float = 5.0
    latency_ms: float = 50.0
    noise: Sequence[float] = (1.0,)
    budget_s: float = 180.0
    now_s: float = 0.0
    loaded_s: dict[Setting, float] = field(default_factory=dict)
    running: set[Setting] = field(default_factory=set)
    measured: int = 0
    progress: list[float] = field(default_factory=list)

    async def start(self, setting: Setting, limit_s: float) -> Scripted | None:
        self.now_s += self.start_s
        if setting not in self.rates:
            return None
        self.running.add(setting)
        return Scripted(self, setting)

    def search(self) -> Found:
        def report(_: str) -> None:
            self.progress.append(self.spent())

        search = Search(self.start, OBJECTIVE, self.budget_s, self.spent, report)
        return asyncio.run(search.run(list(self.rates)))

    def spent(self) -> float:
        return self.now_s / self.budget_s


@dataclass
class Scripted:
    machine: Machine
    setting: Setting

    async def trial(self, seconds: float) -> Trial:
        return Trial((await self.open(self.machine.rates[self.setting], seconds),))

    async def open(self, per_second: float, seconds: float) -> LoadResult:
        machine = self.machine
        machine.now_s += seconds
        before = machine.loaded_s.get(self.setting, 0.0)
        machine.loaded_s[self.setting] = before + seconds
        noise = machine.noise[machine.measured % len(machine.noise)]
        machine.measured += 1
        count = round(per_second * seconds * noise * 100)
        return LoadResult(4, seconds * 100, (machine.latency_ms,) * count, 0)

    async def stop(self) -> None:
        self.machine.running.discard(self.setting)


def many(best: Setting) -> dict[Setting, float]:
    rates = {setting: 80.0 + place for place, setting in enumerate(grid(4, on_gpu=False))}
    return rates | {DEFAULT: 100.0, best: 150.0}


def test_the_best_setting_is_found_in_time_and_gets_the_most_of_it() -> None:
    machine = Machine(many(FASTER))
    found = machine.search()
    assert found.chosen == FASTER and found.comparison.better
    assert found.table[0][0] == FASTER and len(found.table) > 6
    assert found.skipped == len(machine.rates) - len(found.table)
    assert machine.spent() <= 1.0
    assert machine.progress == sorted(machine.progress), "it only moves forward"
    loads = sorted(machine.loaded_s, key=lambda setting: -machine.loaded_s[setting])
    assert set(loads[:2]) == {FASTER, DEFAULT}
    assert not machine.running, "every server is stopped"
    assert found.open_loop is not None


def test_a_difference_within_the_noise_is_reported_as_such() -> None:
    machine = Machine({DEFAULT: 100.0, FASTER: 102.0}, noise=(1.0, 0.9, 1.1))
    found = machine.search()
    assert found.best == FASTER and found.chosen == DEFAULT
    assert "within the noise" in tune.report(found, OBJECTIVE)


def test_a_setting_that_meets_the_objective_is_better_than_a_default_that_does_not() -> None:
    assert Comparison((40.0,) * 5, (0.0,) * 5).better
    assert not Comparison((0.0,) * 5, (0.0,) * 5).better


def test_too_few_rounds_decide_nothing() -> None:
    machine = Machine({DEFAULT: 100.0, FASTER: 200.0}, start_s=5.0, budget_s=12.0)
    found = machine.search()
    assert found.chosen == DEFAULT and 0 < len(found.comparison.ratios) < 5
    assert "give more --minutes" in tune.report(found, OBJECTIVE)


def test_a_server_that_does_not_start_ends_the_starts_and_not_the_search() -> None:
    machine = Machine({DEFAULT: 100.0, FASTER: 150.0, SLOWER: 10.0})
    del machine.rates[SLOWER]
    search = Search(machine.start, OBJECTIVE, 180.0, machine.spent, lambda _: None)
    found = asyncio.run(search.run([DEFAULT, FASTER, SLOWER]))
    assert found.chosen == FASTER and found.skipped == 1


def test_what_misses_the_objective_ranks_below_all_that_meets_it() -> None:
    fast, slow = LoadResult(1, 1.0, (50.0,), 0), LoadResult(1, 1.0, (200.0,) * 90, 0)
    slower = LoadResult(1, 1.0, (300.0,) * 99, 0)
    worth = [Trial((load,)).worth(OBJECTIVE) for load in (fast, slow, slower)]
    assert worth == sorted(worth, reverse=True) and worth[0] == 1.0 and worth[1] < 0
    assert Trial((LoadResult(1, 1.0, (), 3),)).worth(OBJECTIVE) == float("-inf")
    both = Trial((fast, slow))
    assert both.best(OBJECTIVE) == fast


@pytest.mark.parametrize(("cores", "on_gpu"), [(1, False), (2, False), (64, False), (16, True)])
def test_the_grid_begins_with_the_default_and_repeats_nothing(cores: int, on_gpu: bool) -> None:
    found = grid(cores, on_gpu)
    assert found[0] == DEFAULT and len(set(found)) == len(found) <= 60
    assert all(setting.warm_pool <= max(cores, 1) for setting in found)
    for setting in found:
        argv = [text for pair in setting.by_flag().items() for text in map(str, pair)]
        config = settings_of(parser(), argv, {}).config
        assert config.max_batch_rows == setting.max_batch_rows


def test_golden_inputs_are_what_is_sent(tiny_bundle: Path) -> None:
    examples = tune._golden(tiny_bundle)
    assert len(examples) == 7 and all(one.parts for one in examples)
    kinds = {part.modality for one in examples for part in one.parts if part.data}
    assert kinds == {pb.IMAGE, pb.AUDIO}


def test_kept_payloads_are_sent_instead(tmp_path: Path) -> None:
    telemetry = Telemetry(TelemetrySettings(tmp_path, sample_share=1.0), Clock())
    example = pb.Example(parts=[pb.Part(text="is it?")])
    telemetry.adopt(bundle())
    telemetry.put(record(0, payload=example.SerializeToString()), SCHEMA)
    telemetry.put(record(1, payload=b""), SCHEMA)
    telemetry.close()
    arguments = tune.parser().parse_args(["--payloads", str(tmp_path)])
    assert tune._examples(arguments) == [example]


def asked(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.main", "tune", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(240),
    )


def test_a_short_run_ends_with_flags_that_the_server_reads(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned.toml"
    flags = ("--bundle", str(tiny_bundle), "--device", "cpu", "--deadline", "30")
    done = asked(*flags, "--minutes", "0.05", "--write", str(out))
    assert done.returncode == 0, done.stderr + done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("server --bundle")]
    given = settings_of(parser(), line.split()[1:], {})
    written = settings_of(parser(), ["--config", str(out), "--bundle", str(tiny_bundle)], {})
    assert given.config.warm_pool == written.config.warm_pool >= 1
    assert given.config.max_batch_rows == written.config.max_batch_rows
    assert written.config.device == "cpu"
    shares = [int(one.split("%")[0]) for one in done.stderr.splitlines() if "%" in one[:5]]
    assert shares == sorted(shares) and shares, done.stderr
    assert not list(out.parent.glob("*.part"))


def test_an_objective_that_nothing_meets_recommends_nothing(tiny_bundle: Path) -> None:
    flags = ("--bundle", str(tiny_bundle), "--device", "cpu", "--slo-p99-ms", "0.01")
    done = asked(*flags, "--minutes", "0.05")
    assert done.returncode == 1 and "nothing here meets the objective" in done.stdout


def test_payloads_that_are_not_there_are_refused(tmp_path: Path) -> None:
    done = asked("--payloads", str(tmp_path))
    assert done.returncode == 2 and "there is no telemetry.db" in done.stderr
