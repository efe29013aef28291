"""A real replica on a real bundle, its stages, and its placement."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proto import inference_pb2 as pb
from proto import replica_pb2
from server import host
from server.config import ServerConfig
from server.engine import Engine
from server.errors import PoolRefused
from server.pool.pool import Pool
from server.pool.spawn import replica_spawner
from server.replica import link, placement
from server.replica.batching import Budget, budget_for, fitting, swept
from server.replica.decoding.nursery import Nursery
from server.replica.decoding.parts import PartDecoders
from server.replica.executor import Executor
from server.replica.generations import Generations
from server.replica.load_limit import load_limit, memory_refused
from server.replica.model import Ready, Rejected
from server.replica.pipeline_model import PipelineModel, part_of, sample_of
from server.replica.work_queue import Crew, WorkRow
from server.replica.worker import LoadRefused
from server.telemetry.record import FeatureSpec, Record
from server.types import GenerationEnd, Token
from tests.support.patience import patience
from tests.support.stub_replica import StubModel, work
from tests.support.tinybundle import jpeg, reseal, wav

# ---- where it is placed --------------------------------------------------------------------------


def test_replicas_go_round_the_devices() -> None:
    names, _ = placement.devices("cuda:0,2", 4)
    placed = [placement.place(names, index, 5) for index in range(5)]
    assert [device for device, _, _ in placed] == ["cuda:0", "cuda:2", "cuda:0", "cuda:2", "cuda:0"]
    assert [sharing for _, sharing, _ in placed] == [3, 2, 3, 2, 3]


def test_auto_takes_every_gpu_or_the_cpu_and_says_so() -> None:
    assert placement.devices("auto", 2) == (("cuda:0", "cuda:1"), "2 CUDA devices")
    assert placement.devices("auto", 0) == (("cpu",), "no CUDA device")
    assert placement.devices("cuda", 2)[0] == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("asked", "count"), [("cuda", 0), ("cuda:1", 1), ("gpu", 1), ("cuda:x", 1)]
)
def test_a_device_that_is_not_there_is_refused(asked: str, count: int) -> None:
    with pytest.raises(ValueError, match="device"):
        placement.devices(asked, count)


def test_a_pool_too_large_for_a_device_or_for_the_host_is_refused_with_numbers() -> None:
    gib = 1 << 30
    assert placement.misfit(6 * gib, 2, 24 * gib, shared=False) == ""
    assert "at most 3 fit" in placement.misfit(6 * gib, 4, 24 * gib, shared=False)
    assert host.misfit(6 * gib, 2, (24 * gib, "available")) == ""
    assert "4 replicas need" in host.misfit(6 * gib, 4, (24 * gib, "available"))


def test_the_kernels_own_kills_are_distinguished_from_others(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert host.oom_kills(vmstat) == 0
    vmstat.write_text("oom_pages 9\noom_kill 3\n")
    assert host.oom_kills(vmstat) == 3


def test_cores_are_divided_among_replicas_unless_set_otherwise() -> None:
    assert placement.threads_for(0, 2, (8, "8 cores")) == (4, "8 cores / 2 replicas")
    assert placement.threads_for(0, 4, (2, ""))[0] == 1
    assert placement.threads_for(3, 2, (8, "")) == (3, "as configured")


def test_a_budget_is_usual_for_the_device_or_as_configured() -> None:
    usual, why = budget_for("cpu", 0, 0)
    assert usual.rows == 8 and "usual on cpu" in why
    given, why = budget_for("cuda:0", 5, 0)
    assert given.rows == 5 and "as configured" in why


def test_a_sweep_stops_where_rows_gain_nothing_or_memory_ends() -> None:
    usual = Budget(32, 32768)
    flat = {1: 0.010, 2: 0.011, 4: 0.013, 8: 0.020, 16: 0.040}  # 8 rows: 400 a second; 16: 400 too
    budget, why = swept(flat.get, 100, usual)
    assert budget == Budget(32, 32768) and "400 rows/s at 8 rows" in why and "16 rows gain" in why
    budget, why = swept(lambda rows: 0.01 if rows <= 4 else None, 700, usual)
    assert budget == Budget(4, 2800) and "memory ends before 8 rows" in why
    budget, why = swept(lambda rows: 0.01, 700, usual, most_rows=64)
    assert budget == Budget(64, 64 * 700) and "64 rows are the most" in why
    with pytest.raises(MemoryError, match="one row of 700 tokens"):
        swept(lambda rows: None, 700, usual)


def test_the_largest_batch_is_computed_and_the_budget_halved_until_it_fits() -> None:
    asked = Budget(32, 32768)
    tried: list[int] = []

    def measure(rows: int) -> float | None:
        tried.append(rows)
        return 0.01 if rows <= 9 else None

    assert fitting(lambda rows: 0.01, 100, asked, "asked for") == (asked, "asked for")
    budget, why = fitting(measure, 700, asked, "as configured")
    assert budget == Budget(8, 5600) and tried == [32, 16, 8]
    assert "memory ends at 32 rows of 700 tokens (as configured)" in why
    long, _ = fitting(measure, 16384, asked, "")  # two such rows are what the tokens allow
    assert long == asked and tried[3:] == [2]
    with pytest.raises(MemoryError, match="one row of 700 tokens"):
        fitting(lambda rows: None, 700, asked, "")


# ---- messages ------------------------------------------------------------------------------------


def test_parts_keep_their_order_kind_and_form() -> None:
    example = pb.Example()
    example.parts.add(text="note", id="n")
    example.parts.add(data=b"pic", modality=pb.IMAGE, mime_type="image/png")
    pcm = pb.PcmFormat(sample_rate_hz=8000, channels=2, encoding=pb.PcmFormat.F32LE)
    example.parts.add(data=b"sound", pcm=pcm)
    item = replica_pb2.Work(id="w", task="embed", labels=["l"])
    sample = sample_of(item, example.SerializeToString())
    assert [part.kind for part in sample.parts] == ["text", "image", None]
    assert [part.data for part in sample.parts] == ["note", b"pic", b"sound"]
    assert sample.parts[2].pcm and sample.parts[2].pcm.encoding == "f32le"
    assert (sample.id, sample.task, sample.labels) == ("w", "embed", ("l",))
    assert part_of(example.parts[0]).id == "n"


def test_bytes_that_are_no_example_are_the_callers_fault() -> None:
    broken_text = b"\x0a\x04\x22\x02\xff\xfe"  # parts { text: "\xff\xfe" }
    with pytest.raises(Rejected) as caught:
        sample_of(replica_pb2.Work(id="w"), broken_text)
    assert caught.value.fault.reason == "BAD_MESSAGE"


# ---- stages --------------------------------------------------------------------------------------


class Shown:
    """Collects what stages send; `wait(n)` returns when n rows have ended."""

    def __init__(self) -> None:
        self.messages: list[replica_pb2.FromReplica] = []
        self._more = threading.Condition()

    def __call__(self, message: replica_pb2.FromReplica) -> None:
        with self._more:
            self.messages.append(message)
            self._more.notify()

    def wait(self, rows: int) -> list[replica_pb2.Done]:
        with self._more:
            assert self._more.wait_for(lambda: len(self._done()) >= rows, timeout=patience(20))
            return self._done()

    def _done(self) -> list[replica_pb2.Done]:
        batches = [m.done_batch.items for m in self.messages if m.HasField("done_batch")]
        singles = [m.done for m in self.messages if m.HasField("done")]
        return [*singles, *(done for batch in batches for done in batch)]


def stages(output: Shown, shared_cores: bool) -> Executor:
    made = Executor(StubModel(), output, Budget(8, 1000), Crew(1, shared_cores), 4)
    made.start()
    return made


def submit(made: Executor, *texts: str, expires_in_s: float = 0.0) -> None:
    batch = replica_pb2.WorkBatch()
    for number, text in enumerate(texts):
        batch.items.add(id=f"{text}/{number}", expires_in_s=expires_in_s)
    made.submit(batch, [work("", text).example for text in texts])


@pytest.mark.parametrize("shared_cores", [True, False])
def test_every_thread_enters_the_model_before_it_uses_it(shared_cores: bool) -> None:
    model, output = StubModel(), Shown()
    made = Executor(model, output, Budget(8, 1000), Crew(3, shared_cores), 4)
    made.start()
    submit(made, "a")
    output.wait(1)
    until = time.monotonic() + patience(20)
    while len(model.threads) < 3 + (1 if shared_cores else 2):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("shared_cores", [True, False])
def test_rows_begin_before_they_are_done_and_end_once(shared_cores: bool) -> None:
    output = Shown()
    submit(stages(output, shared_cores), "a", "bad", "boom", "b")
    done = output.wait(4)
    begun = [i for m in output.messages if m.HasField("begun") for i in m.begun.ids]
    assert sorted(d.id for d in done) == ["a/0", "b/3", "bad/1", "boom/2"]
    assert {i.split("/")[0] for i in begun} == {"a", "b", "boom"}
    faults = {d.id: d.fault.code for d in done if d.HasField("fault")}
    assert faults == {"bad/1": "INVALID_ARGUMENT", "boom/2": "INTERNAL"}


def test_expired_rows_are_dropped_before_the_forward() -> None:
    output = Shown()
    submit(stages(output, shared_cores=False), "slow 0.2", "late", expires_in_s=0.1)
    assert [done.fault.code for done in output.wait(2)] == ["DEADLINE_EXCEEDED"] * 2
    assert not any(message.HasField("begun") for message in output.messages)


class Gated(StubModel):
    """Rows of a text that begins with "slow" are decoded once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        if self.lane(example) == "heavy":
            assert self.gate.wait(patience(60))
        return super().prepare(work, example)


@pytest.mark.parametrize("shared_cores", [True, False])
def test_a_row_behind_slow_ones_is_answered_first(shared_cores: bool) -> None:
    output, model = Shown(), Gated()
    made = Executor(model, output, Budget(8, 1000), Crew(2, shared_cores), 4)
    made.start()
    submit(made, "slow 0", "slow 0", "slow 0", "a")
    submit(made, "b", "c")
    assert {done.id for done in output.wait(3)} == {"a/3", "b/0", "c/1"}
    model.gate.set()
    assert len(output.wait(6)) == 6


async def test_frames_arrive_whole_however_little_the_kernel_takes_at_once() -> None:
    ours, theirs = link.socket_pair()
    front, replica = await link.FrontLink.over(ours), link.ReplicaLink(theirs)
    examples = [bytes([n]) * size for n, size in enumerate((0, 5 << 20, 1, 7 << 20, 125_000))]
    for _ in range(2):  # the second behind what the writer still holds
        message = replica_pb2.ToReplica()
        for number, example in enumerate(examples):
            message.work.items.add(id=str(number), example_bytes=len(example))
        front.send(message, examples)
    for _ in range(2):
        message, payloads = await asyncio.to_thread(replica.receive)
        assert payloads == examples and len(message.work.items) == len(examples)
    front.close()
    with pytest.raises(EOFError):
        await asyncio.to_thread(replica.receive)
    theirs.close()


def test_texts_wait_in_order_for_memory_and_are_counted(tiny_bundle: Path) -> None:
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(tiny_bundle, device="cpu", threads=1)
    decoders = PartDecoders(1, pipeline.limits, Nursery())  # a text needs none of them
    model = PipelineModel(pipeline, decoders, probe_runs=1)
    token_bytes = 2 * 2 * 1 * 16 * 4  # keys and values, layers, heads, head size, float32
    model.set_aside(3 * 64 * token_bytes)  # one line beside one that is being copied
    output, ended = Shown(), list[str]()
    written = Generations(model, output, ended.append, 8, time.monotonic, Budget(8, 8192))
    example = pb.Example()
    example.parts.add(text="is it?")
    rows = []
    for number, limit in enumerate((5, 40, 300, 3, 4)):
        asked = replica_pb2.Work(id=f"t{number}", task="generate", max_new_tokens=limit)
        made = WorkRow(asked, example.SerializeToString(), float("inf"))
        made.ready = model.prepare(asked, made.example)
        rows.append(made)
    written.take(rows)
    most_waiting = []
    while written:
        written.step()
        most_waiting.append(written.counts[1])
        assert model.text_bytes()[0] <= 3 * 64 * token_bytes
    assert most_waiting[0] >= 2 and most_waiting[-1] == 0
    last = {m.token.id: m.token for m in output.messages if m.token.last}
    assert list(last) == ended and set(ended) == {f"t{n}" for n in range(5)}
    assert last["t2"].fault.reason == "TEXT_MEMORY" and "MiB" in last["t2"].fault.message
    assert all(not last[name].HasField("fault") for name in ended if name != "t2")


def test_a_replica_records_small_forwards_within_the_memory_of_its_texts(tiny_bundle: Path) -> None:
    from pipelines.models.graphs import DirectCapture
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(tiny_bundle, device="cpu", threads=1)
    model = PipelineModel(pipeline, PartDecoders(1, pipeline.limits, Nursery()), probe_runs=1)
    model.set_aside(1 << 20)
    why = model.record(DirectCapture(), 2)
    assert "2 texts of 128" in why and "1x64" in why
    assert 0 < model.text_bytes()[0] <= model.text_bytes()[1] == 1 << 20
    held = re.search(
        r"weights (\d+) MiB in float32, (\d+) of them this replica's own", model.memory()
    )
    assert held and held[1] == held[2], "nothing is shared here"


# ---- the real thing ------------------------------------------------------------------------------


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        self.records.append(record)


@asynccontextmanager
async def running(bundle: Path) -> AsyncIterator[tuple[Engine, Kept]]:
    config = ServerConfig(bundle=bundle, warm_pool=1, device="cpu", threads=1)
    kept = Kept()
    engine = Engine(config, Pool(config, replica_spawner(config)), kept)
    await engine.start()
    try:
        state = "STARTING"
        while state != "READY":
            state = await asyncio.wait_for(engine.changed(state), patience(120))
        yield engine, kept
    finally:
        await engine.stop()


def mixed(text: str, seed: int) -> bytes:
    example = pb.Example()
    example.parts.add(text=text)
    example.parts.add(data=jpeg(seed=seed), modality=pb.IMAGE)
    example.parts.add(data=wav(frequency=300 + 50 * seed))
    return bytes(example.SerializeToString())


async def test_a_real_replica_answers_as_the_library_does(tiny_bundle: Path) -> None:
    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(tiny_bundle, device="cpu")
    examples = [mixed("pressure is falling", 0), mixed("all quiet", 1)]
    text_only = pb.Example()
    text_only.parts.add(text="is it?")
    examples.append(bytes(text_only.SerializeToString()))
    async with running(tiny_bundle) as (engine, kept):
        rows = [work(f"r{n}", "", example=example) for n, example in enumerate(examples)]
        outcomes = await asyncio.gather(*(engine.predict(row) for row in rows))
        expected = pipeline.predict([_sample(row.id, row.example) for row in rows])
        names = [feature.name for feature in pipeline.features]
        for outcome, prediction in zip(outcomes, expected, strict=True):
            assert outcome.answer and not isinstance(prediction, Exception)
            assert outcome.stamp == prediction.stamp == pipeline.stamp.hex
            assert outcome.answer.label == prediction.label
            assert outcome.answer.confidence == pytest.approx(prediction.confidence, abs=1e-4)
            assert [s.label for s in outcome.answer.scores] == [s.label for s in prediction.scores]
            features = np.frombuffer(outcome.answer.features, "<f4")
            ours = [prediction.features[name] for name in names]
            np.testing.assert_allclose(features, ours, rtol=1e-3, atol=1e-3)
        assert engine.facts and [f.name for f in engine.facts.features] == names
        assert [o.mix for o in outcomes] == ["audio+image+text", "audio+image+text", "text"]

        asked = work("z", "", example=examples[0], labels=("yes", "no"), want_embedding=True)
        zero_shot = await engine.predict(asked)
        assert zero_shot.answer and {s.label for s in zero_shot.answer.scores} == {"yes", "no"}
        embedding = np.frombuffer(zero_shot.answer.embedding, "<f4")
        assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-4)
        assert len(embedding) == engine.facts.embedding_dimensions

        broken = pb.Example()
        broken.parts.add(text="note")
        broken.parts.add(data=jpeg()[:100], modality=pb.IMAGE)
        refused = await engine.predict(work("b", "", example=broken.SerializeToString()))
        assert refused.fault and refused.fault.code == "INVALID_ARGUMENT"
        assert refused.fault.field.startswith("parts[1]")

        written = work("g", "", example=examples[0], task="generate", max_new_tokens=6)
        items = [item async for item in engine.generate(written)]
        end = items[-1]
        assert isinstance(end, GenerationEnd) and end.outcome.answer
        text = "".join(item.text for item in items if isinstance(item, Token))
        sample = _sample("g", examples[0], task="generate", max_new_tokens=6)
        assert text == "".join(pipeline.generate(sample))
        assert 0 < end.outcome.answer.confidence <= 1

        evidence = engine.snapshot().replicas[0].evidence
        assert len(evidence) == 7 and all(e.ok for e in evidence)
        await asyncio.sleep(0)
        assert len(kept.records) == len(rows) + 3


def _sample(entry_id: str, example: bytes, **changes: object) -> Any:
    item = replica_pb2.Work(id=entry_id, task="classify")
    for name, value in changes.items():
        setattr(item, name, value)
    return sample_of(item, example)


async def test_a_changed_bundle_is_refused_by_name_of_the_check(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(tiny_bundle, copy)
    labels = copy / "labels.json"
    labels.chmod(0o644)
    labels.write_bytes(labels.read_bytes().replace(b"watch", b"catch"))
    config = ServerConfig(bundle=copy, warm_pool=2, device="cpu")
    with pytest.raises(PoolRefused, match="hash"):
        await Engine(config, Pool(config, replica_spawner(config)), Kept()).start()


async def _refusal(bundle: Path, **settings: Any) -> str:
    config = ServerConfig(bundle=bundle, warm_pool=1, device="cpu", threads=1, **settings)
    engine = Engine(config, Pool(config, replica_spawner(config)), Kept())
    with pytest.raises(PoolRefused) as caught:
        await engine.start()
    await engine.stop()
    return str(caught.value)


async def test_a_bundle_that_takes_more_memory_than_allowed_is_refused_with_the_limit(
    tiny_bundle: Path,
) -> None:
    message = await _refusal(tiny_bundle, load_memory_mb=1)
    assert "replica ran out of the memory limit 1 MiB while loading" in message
    assert "--load-memory-mb" in message


async def test_a_malformed_bundle_is_refused_by_field_and_not_by_an_exit_code(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """At the point where golden inputs are run, which is behind all checks of files."""
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "malformed"))
    golden = copy / "golden/golden.json"
    golden.write_bytes(golden.read_bytes().replace(b'"kind": "text"', b'"kind": "smell"', 1))
    message = await _refusal(reseal(copy))
    assert "golden/golden.json: cases[0]" in message and "exit code" not in message


def test_the_memory_limit_holds_only_while_loading(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with load_limit(tmp_path, "cpu", 64) as limit:
        limit.file = "model/config.json"
        with pytest.raises(LoadRefused, match="limit 64 MiB while loading model/config.json"):
            with memory_refused(limit):
                np.ones(256 << 20, dtype=np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(256 << 20, dtype=np.uint8).nbytes == 256 << 20
    with load_limit(tmp_path, "cuda:0", 64) as limit:
        assert limit.limit_bytes == 0
