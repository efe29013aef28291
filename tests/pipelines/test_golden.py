"""Golden inputs: the same pipeline passes, any other computation fails, and a slow one counts as
slow."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipelines
from pipelines.build import build
from pipelines.build.restamp import restamp
from pipelines.bundle import golden, golden_file
from pipelines.bundle import tensors as tensorfile
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.golden import GoldenResult
from pipelines.bundle.speed import Speed
from pipelines.errors import BadInput, BundleRefused
from pipelines.pipeline import Pipeline
from pipelines.types import MIXES, Part, Prediction, Sample
from tests.support.tinybundle import ONE_THREAD, make_spec, reseal


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, device="cpu", threads=1)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_the_pipeline_that_recorded_them_passes_every_mix(pipeline: Pipeline) -> None:
    results = golden.check(pipeline)
    assert [result.mix for result in results] == list(MIXES)
    assert all(result.ok for result in results)
    assert max(result.worst_difference for result in results) < 1e-4
    assert len({tuple(c.expected.scores.items()) for c in cases(pipeline) if c.expected}) == 7


def cases(pipeline: Pipeline) -> list[golden_file.GoldenCase]:
    return golden_file.read(pipeline.bundle)[0]


def test_golden_inputs_are_real_files(tiny_bundle: Path) -> None:
    folder = tiny_bundle / "golden"
    assert (folder / "image.0.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert (folder / "audio.0.wav").read_bytes().startswith(b"RIFF")
    assert "pressure" in (folder / "text.0.txt").read_text()


def test_only_the_mixes_asked_for_are_run(pipeline: Pipeline) -> None:
    found = golden.check(pipeline, ["audio+text", "text"])
    assert [result.mix for result in found] == ["text", "audio+text"]


def _json_change(path: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / path).read_text())
        change(value)
        (folder / path).write_text(json.dumps(value))

    return apply


def _other_weights(folder: Path) -> None:
    tensors = {name: t.clone() for name, t in Bundle.open(folder).tensors().items()}
    name = next(name for name in tensors if "layers.1.mlp.down_proj" in name)
    tensors[name] *= 1.05
    (folder / "weights/model.safetensors").write_bytes(tensorfile.to_bytes(tensors))


def _hotter(value: Any) -> None:
    value["temperature"] = 1.5


def _other_mean(value: Any) -> None:
    value["image"]["mean"][0] += 0.02


def _fewer_pixels(value: Any) -> None:
    value["image"]["max_pixels"] //= 2


def _other_range(value: Any) -> None:
    value["audio"]["dynamic_range"] = 7.5


def _other_prompt(value: Any) -> None:
    value["classify"]["suffix"] += " "


CHANGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "weights": (_other_weights, set(MIXES)),
    "temperature": (_json_change("labels.json", _hotter), set(MIXES)),
    "prompt": (_json_change("template.json", _other_prompt), set(MIXES)),
    "image mean": (
        _json_change("preprocess.json", _other_mean),
        {mix for mix in MIXES if "image" in mix},
    ),
    "image budget": (
        _json_change("preprocess.json", _fewer_pixels),
        {mix for mix in MIXES if "image" in mix},
    ),
    "mel range": (
        _json_change("preprocess.json", _other_range),
        {mix for mix in MIXES if "audio" in mix},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_moves_answers_fails_the_mixes_it_touches(bundle: Path, change: str) -> None:
    apply, touched = CHANGES[change]
    apply(bundle)
    reseal(bundle)
    loaded = Pipeline.load(bundle, device="cpu", threads=1)
    assert {result.mix for result in golden.check(loaded) if not result.ok} == touched
    with pytest.raises(BundleRefused, match="differs by") as caught:
        golden.require(loaded)
    assert caught.value.check == "golden"


def test_a_text_that_is_written_otherwise_fails(bundle: Path) -> None:
    def other(value: Any) -> None:
        value["cases"][4]["expected"]["text"] += "!"

    _json_change(golden_file.FILE, other)(bundle)
    reseal(bundle)
    loaded = Pipeline.load(bundle, device="cpu", threads=1)
    wrong = [result for result in golden.check(loaded) if not result.ok]
    assert [result.mix for result in wrong] == ["audio+text"]
    assert "writes" in wrong[0].reason
    assert all(result.ok for result in golden.check(loaded, texts=False))
    (probed,) = golden.probe(loaded, ["audio+text"], runs=2)
    assert not probed.ok
    coarse = Pipeline.load(bundle, device="cpu", dtype="bfloat16", threads=1)
    assert all(result.ok for result in golden.check(coarse))


def test_recorded_texts_are_texts(pipeline: Pipeline) -> None:
    texts = [case.expected.text for case in cases(pipeline) if case.expected]
    assert all(texts)
    assert len(set(texts)) > 1


def test_a_wrong_bundle_does_not_load_as_a_library_either(bundle: Path) -> None:
    _other_weights(bundle)
    reseal(bundle)
    with pytest.raises(BundleRefused, match="golden"):
        pipelines.load(bundle, device="cpu", threads=1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_coarser_number_format_passes_its_own_tolerance(tiny_bundle: Path, dtype: str) -> None:
    loaded = Pipeline.load(tiny_bundle, device="cpu", dtype=dtype, threads=1)
    results = golden.check(loaded)
    assert all(result.ok for result in results), results
    assert results[0].tolerance == golden_file.TOLERANCE[dtype]
    assert max(result.worst_difference for result in results) > 1e-5  # it really was coarser


class Stub:
    """Gives prepared answers, for results no real pipeline gives on demand."""

    def __init__(self, bundle: Bundle, answer: Prediction | BadInput) -> None:
        self.bundle = bundle
        self.env: Mapping[str, str] = {"dtype": "float32", "device": "cpu"}
        self._answer = answer

    def predict(self, samples: Sequence[Sample]) -> list[Prediction | BadInput]:
        return [self._answer for _ in samples]


def _answer(pipeline: Pipeline) -> Prediction:
    answer = pipeline.predict([cases(pipeline)[0].sample])[0]
    assert isinstance(answer, Prediction)
    return answer


def test_an_answer_of_nan_or_of_other_labels_is_infinitely_wrong(pipeline: Pipeline) -> None:
    expected = cases(pipeline)[0].expected
    assert expected is not None
    good = _answer(pipeline)
    nan = tuple(replace(score, log_prob=math.nan) for score in good.scores)
    other = tuple(replace(score, label=score.label + "?") for score in good.scores)
    assert golden.difference(good, expected) < 1e-4
    for bad in (
        replace(good, scores=nan),
        replace(good, scores=other),
        replace(good, scores=good.scores[1:]),
        replace(good, embedding=None),
    ):
        assert golden.difference(bad, expected) == math.inf


def test_a_refused_golden_input_is_reported_as_a_failure(pipeline: Pipeline) -> None:
    refusing = Stub(pipeline.bundle, BadInput("parts[0]", "TOO_BIG", "no"))
    result = golden.check(refusing, ["text"])[0]
    assert not result.ok
    assert "refused as bad input" in result.reason
    with pytest.raises(BundleRefused, match="refused as bad input"):
        golden.record(refusing)


def test_nothing_is_recorded_from_an_answer_that_is_not_finite(pipeline: Pipeline) -> None:
    good = _answer(pipeline)
    bad = replace(good, scores=tuple(replace(s, probability=math.inf) for s in good.scores))
    with pytest.raises(BundleRefused, match="NaN or infinity"):
        golden.record(Stub(pipeline.bundle, bad))


# ---- speed -----------------------------------------------------------------------------------

SPEED = Speed(3.0, 50.0, 900.0, {"cpu": {"text": 40.0, "image": 10.0}})


@pytest.mark.parametrize(
    ("device", "mix", "limit", "reason"),
    [
        ("cpu", "text", 120.0, "3 x the recorded 40 ms"),
        ("cpu", "image", 50.0, "3 x 10 ms is below the floor"),
        ("cpu", "audio", 900.0, "default limit: the bundle has no audio timing for cpu"),
        ("cuda:1", "text", 900.0, "default limit: the bundle has no text timing for cuda"),
    ],
)
def test_the_limit_and_its_reason(device: str, mix: str, limit: float, reason: str) -> None:
    assert SPEED.limit_ms(device, mix) == (limit, reason)


def test_speed_reads_back_and_refuses_what_it_does_not_know() -> None:
    assert Speed.from_dict(SPEED.to_dict()) == SPEED
    recorded = SPEED.recorded("cuda:3", {"text": 1.23456})
    assert recorded.baseline["cuda"] == {"text": 1.235}
    assert recorded.baseline["cpu"] == SPEED.baseline["cpu"]
    values = SPEED.to_dict()
    for bad in ({**values, "more": 1}, {**values, "factor": "x"}, {**values, "floor_ms": 0}):
        with pytest.raises(BundleRefused):
            Speed.from_dict(bad)


def _ticking(step_s: float) -> Callable[[], float]:
    times: Iterator[int] = iter(range(10**6))
    return lambda: next(times) * step_s


def test_a_probe_is_right_and_fast_or_reports_which_it_is_not(pipeline: Pipeline) -> None:
    fast = golden.probe(pipeline, runs=2, clock=_ticking(0.001))
    assert [result.mix for result in fast] == list(MIXES)
    assert all(result.ok and result.runs == 2 and result.p50_ms < 1.1 for result in fast)
    (slow,) = golden.probe(pipeline, ["text"], runs=3, clock=_ticking(6.0))
    assert not slow.ok
    assert "over 5000.0 ms" in slow.reason


def test_a_wrong_answer_and_an_unknown_mix_are_never_ok() -> None:
    good = GoldenResult("a", "text", True, 1e-6, 1e-3, 5.0, "")
    wrong = replace(good, ok=False, worst_difference=1.0, reason="differs")
    assert golden.judge("text", [good, good], (10.0, "x")).ok
    assert not golden.judge("text", [good, wrong], (10.0, "x")).ok
    assert not golden.judge("video", [], (10.0, "x")).ok
    assert golden.judge("text", [good, wrong], (10.0, "x")).worst_difference == 1.0


def test_recorded_speed_is_of_every_mix(tmp_path: Path) -> None:
    out = tmp_path / "timed"
    build.write_bundle(make_spec(), out, ONE_THREAD, record_speed=True)
    baseline = Bundle.open(out).speed["baseline"]["cpu"]
    assert set(baseline) == set(MIXES)
    assert all(ms > 0 for ms in baseline.values())


# ---- the file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(schema="other"),
        lambda v: v.update(cases=[]),
        lambda v: v.update(tolerance={}),
        lambda v: v["cases"][0].pop("parts"),
        lambda v: v["cases"][0]["parts"][0].update(file="absent.txt"),
        lambda v: v["cases"][0]["expected"].update(scores=3),
    ],
)
def test_a_malformed_golden_file_is_refused(bundle: Path, change: Callable[[Any], None]) -> None:
    _json_change(golden_file.FILE, change)(bundle)
    reseal(bundle)
    with pytest.raises(BundleRefused) as caught:
        golden.check(Pipeline.load(bundle, device="cpu", threads=1))
    assert caught.value.check == "golden"


@pytest.mark.parametrize(
    "part", [Part(None, b"\xff\xd8\xff"), Part("image", b"GIF89a"), Part("audio", "text")]
)
def test_a_golden_input_without_a_file_form_is_refused(part: Part) -> None:
    with pytest.raises(ValueError, match="golden input x"):
        golden_file.files([Sample("x", (part,))])


def test_an_unfinished_bundle_never_serves(bundle: Path) -> None:
    _json_change(golden_file.FILE, lambda v: v["cases"][0].pop("expected"))(bundle)
    reseal(bundle)
    with pytest.raises(BundleRefused, match="never finished"):
        pipelines.load(bundle, device="cpu", threads=1)


# ---- restamping ------------------------------------------------------------------------------


def _of_yesterday(bundle: Path) -> str:
    """The bundle as if stamped for other code; its stamp."""
    whole = Bundle.open(bundle).manifest
    module = next(iter(whole.code))
    reseal(bundle, code={**whole.code, module: "0" * 64})
    with pytest.raises(BundleRefused, match="restamp"):
        Bundle.open(bundle)
    return replace(whole, code={**whole.code, module: "0" * 64}).stamp_hex


def test_restamping_makes_a_bundle_serve_again_with_another_stamp(bundle: Path) -> None:
    before = _of_yesterday(bundle)
    done = restamp(bundle, load=ONE_THREAD)
    opened = Bundle.open(bundle)
    assert done.before == before
    assert done.stamp == opened.stamp
    assert opened.stamp.hex != before
    assert opened.manifest.human["restamped_from"] == before
    assert all(result.ok for result in done.results)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_restamping_refuses_changed_answers_and_changes_nothing(bundle: Path) -> None:
    _other_weights(bundle)
    reseal(bundle)
    _of_yesterday(bundle)
    content = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(BundleRefused, match="7 of 7 golden answers.*--accept-new-golden"):
        restamp(bundle, load=ONE_THREAD)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == content


def test_accepting_new_answers_writes_them(bundle: Path, tmp_path: Path) -> None:
    _other_weights(bundle)
    reseal(bundle)
    done = restamp(bundle, tmp_path / "new", accept_new_golden=True, load=ONE_THREAD)
    assert done.new_golden
    assert not any(result.ok for result in done.results)
    loaded = pipelines.load(tmp_path / "new", device="cpu", threads=1)
    assert loaded.stamp == done.stamp
    with pytest.raises(BundleRefused, match="golden"):  # the source stays what it was
        pipelines.load(bundle, device="cpu", threads=1)
    assert restamp(bundle, accept_new_golden=True, load=ONE_THREAD).stamp.hex == done.stamp.hex
