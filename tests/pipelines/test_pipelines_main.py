"""The `pipelines` command, and bundles from third-party checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.build import checkpoint, from_checkpoint
from pipelines.bundle.bundle import Bundle
from pipelines.errors import BundleRefused
from pipelines.main import main
from pipelines.pipeline import Pipeline
from pipelines.types import Prediction
from tests.support import tinybundle
from tests.support.tinybundle import reseal

LABELS = "run on\nwatch\tkeep an eye on it\nstop line\n"


def _common(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tinybundle.tokenizer_json())
    return folder


def single(folder: Path) -> Path:
    _common(folder, tinybundle.thinker_config())
    save_file(tinybundle.thinker_tensors(), folder / "model.safetensors")
    return folder


def _split(tensors: dict[str, torch.Tensor], folder: Path, count: int) -> None:
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        chosen = {n: tensors[n] for n in names[number::count]}
        save_file(chosen, folder / name)
        places |= dict.fromkeys(chosen, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def sharded(folder: Path) -> Path:
    _common(folder, tinybundle.thinker_config())
    _split(tinybundle.thinker_tensors(), folder, 3)
    return folder


def whole_omni(folder: Path) -> Path:
    """As published: `thinker.` in front, a talker and a vocoder beside it, shards that mix them."""
    config = {
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "thinker_config": tinybundle.thinker_config(),
        "talker_config": {"model_type": "qwen2_5_omni_talker"},
        "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
    }
    _common(folder, config)
    tensors = {f"thinker.{name}": t for name, t in tinybundle.thinker_tensors().items()}
    tensors["thinker.lm_head.weight"] = tensors["thinker.model.embed_tokens.weight"].clone()
    tensors["talker.model.norm.weight"] = torch.ones(8)
    tensors["token2wav.code2wav.weight"] = torch.ones(4, 4)
    _split(tensors, folder, 2)
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "single": single,
    "sharded": sharded,
    "whole-omni": whole_omni,
}


def run(*arguments: object) -> int:
    """The command, for those that run a model on one thread: more only wait for each other."""
    one = ["--threads", "1"] if arguments[0] in ("build", "verify", "restamp") else []
    return main([str(argument) for argument in (*arguments, *one)])


def build(source: Path, out: Path, *more: str) -> int:
    labels = source.parent / "labels.txt"
    labels.write_text(LABELS)
    return run(
        "build", "--from", source, "--labels", labels, "--name", "own-1", "--out", out, *more
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One bundle of each layout, of the same weights."""
    folder = tmp_path_factory.mktemp("built")
    for name, make in LAYOUTS.items():
        assert build(make(folder / f"{name}-source"), folder / name) == 0
    return {name: folder / name for name in LAYOUTS}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_every_checkpoint_layout_gives_the_same_answers(built: dict[str, Path]) -> None:
    found = []
    for path in built.values():
        pipeline = Pipeline.load(path, device="cpu", threads=1)
        answers = pipeline.predict(from_checkpoint.golden_samples(None))
        assert all(isinstance(answer, Prediction) for answer in answers)
        found.append([a.scores for a in answers if isinstance(a, Prediction)])
        assert [label.text for label in pipeline.labels][1] == "keep an eye on it"
    assert found[0] == found[1] == found[2]


def test_weights_are_copied_byte_for_byte_where_nothing_changes(built: dict[str, Path]) -> None:
    for path in (built["single"], built["sharded"]):
        source = path.parent / f"{path.name}-source"
        names = sorted(p.name for p in (path / "weights").glob("*.safetensors"))
        assert names == sorted(p.name for p in source.glob("*.safetensors"))
        for name in names:
            assert (path / "weights" / name).read_bytes() == (source / name).read_bytes()


def test_a_talker_is_left_out(built: dict[str, Path]) -> None:
    opened = Bundle.open(built["whole-omni"])
    assert opened.config["model_type"] == "qwen2_5_omni_thinker"
    names = set(opened.tensors())
    assert not {name for name in names if name.startswith(("thinker.", "talker.", "token2wav."))}
    assert names - {"lm_head.weight"} == set(Bundle.open(built["single"]).tensors())


def test_the_same_checkpoint_gives_the_same_stamp(built: dict[str, Path], tmp_path: Path) -> None:
    source = built["single"].parent / "single-source"
    assert build(source, tmp_path / "again") == 0
    assert Bundle.open(tmp_path / "again").stamp == Bundle.open(built["single"]).stamp


def test_parameters_given_replace_the_defaults(built: dict[str, Path], tmp_path: Path) -> None:
    source = built["single"].parent / "single-source"
    files = tmp_path / "golden"
    files.mkdir()
    (files / "a.txt").write_text("seen from the gate")
    (files / "b.jpg").write_bytes(tinybundle.jpeg(seed=3))
    (files / "c.wav").write_bytes(tinybundle.wav(0.3))
    (tmp_path / "card.md").write_text("# ours\n")
    card = ["--card", str(tmp_path / "card.md")]
    more = ["--max-pixels", "25088", "--golden", str(files), *card]
    assert build(source, tmp_path / "out", *more) == 0
    opened = Bundle.open(tmp_path / "out")
    assert opened.preprocess["image"]["max_pixels"] == 25088
    assert opened.card == "# ours\n"
    assert opened.content("golden/audio-image-text.2.txt") == b"seen from the gate"
    assert run("diff", built["single"], tmp_path / "out") == 0


def _rejected(source: Path, check: str) -> None:
    with pytest.raises(BundleRefused) as caught:
        checkpoint.read(source)
    assert caught.value.check == check, str(caught.value)


def test_checkpoints_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    _rejected(tmp_path / "nowhere", "missing")
    source = single(tmp_path / "a")
    (source / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    _rejected(source, "missing")
    (tmp_path / "tokenizer.json").rename(source / "tokenizer.json")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    _rejected(source, "missing")
    (source / "config.json").write_text('{"model_type": "llama"}')
    _rejected(source, "config")
    broken = sharded(tmp_path / "b")
    (broken / "model-00002-of-00003.safetensors").unlink()
    _rejected(broken, "missing")
    talker = _common(tmp_path / "c", tinybundle.thinker_config())
    save_file({"talker.x": torch.ones(2)}, talker / "model.safetensors")
    _rejected(talker, "weights")


def test_tokens_that_stand_beside_the_tokenizer_are_added(tmp_path: Path) -> None:
    source = single(tmp_path / "a")
    (source / "added_tokens.json").write_text('{"<|extra|>": 266}')
    assert b"<|extra|>" in checkpoint.read(source).tokenizer
    (source / "added_tokens.json").write_text('{"<|extra|>": 300}')
    _rejected(source, "config")


def test_a_checkpoint_trained_with_other_media_parameters_is_refused(tmp_path: Path) -> None:
    source = single(tmp_path / "a")
    (source / "preprocessor_config.json").write_text('{"patch_size": 14, "image_mean": [0, 0, 0]}')
    read = checkpoint.read(source)
    given = from_checkpoint.BuildOptions("own-1", {"labels": []})
    with pytest.raises(BundleRefused, match="image_mean.*--preprocess"):
        from_checkpoint.preprocess(read.processor, given)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("l.txt", "a\n\n b \tsay b\n", ["a", "say b"]),
        ("l.json", '["a", "b"]', ["a", "b"]),
        ("l.json", '{"labels": [{"name": "x", "text": "y"}], "temperature": 2}', ["y"]),
    ],
)
def test_labels_come_in_three_spellings(
    tmp_path: Path, name: str, content: str, texts: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    found = from_checkpoint.labels(tmp_path / name)["labels"]
    assert [label["text"] for label in found] == texts


@pytest.mark.parametrize("content", ["", "\n\n", "a\na\n"])
def test_labels_that_are_none_or_twice_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(BundleRefused):
        from_checkpoint.labels(tmp_path / "l.txt")


# ---- the command line ------------------------------------------------------------------------

Captured = pytest.CaptureFixture[str]


def test_verify_passes_a_good_bundle_and_refuses_a_bad_one(bundle: Path, capsys: Captured) -> None:
    assert run("verify", bundle) == 0
    out = capsys.readouterr().out
    assert out.count("golden ok") == 7
    assert Bundle.open(bundle).stamp.hex in out
    with (bundle / "CARD.md").open("a") as card:
        card.write(".")
    assert run("verify", bundle) == 78
    assert "bundle refused (hash): CARD.md" in capsys.readouterr().err


def test_verify_refuses_wrong_answers(bundle: Path, capsys: Captured) -> None:
    labels = bundle / "labels.json"
    labels.write_text(labels.read_text().replace("1.0", "1.7"))
    reseal(bundle)
    assert run("verify", bundle) == 78
    captured = capsys.readouterr()
    assert captured.out.count("golden FAIL") == 7
    assert "bundle refused (golden)" in captured.err


def test_inspect_shows_what_there_is(bundle: Path, capsys: Captured) -> None:
    assert run("inspect", bundle, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stamp"] == Bundle.open(bundle).stamp.hex
    assert facts["refused_here"] == ""
    assert facts["golden"][-1] == "audio+image+text"
    assert sum(facts["part_bytes"].values()) == sum(f["bytes"] for f in facts["files"].values())
    assert run("inspect", bundle) == 0
    output = capsys.readouterr().out
    assert "serves here" in output
    assert "stop line" in output


def test_restamp_reports_what_it_did(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run("restamp", bundle, "--out", tmp_path / "new") == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert run("restamp", bundle, "--out", tmp_path / "new") == 2
    labels = bundle / "labels.json"
    labels.write_text(labels.read_text().replace("1.0", "1.7"))
    reseal(bundle)
    assert run("restamp", bundle) == 78
    assert "--accept-new-golden" in capsys.readouterr().err
    assert run("restamp", bundle, "--accept-new-golden") == 0
    assert "REPLACED" in capsys.readouterr().err
    assert run("verify", bundle) == 0


def _differences(a: Path, b: Path, capsys: Captured) -> list[str]:
    capsys.readouterr()
    assert run("diff", a, b, "--json") == 0
    lines: list[str] = json.loads(capsys.readouterr().out)
    return lines


def test_diff_names_the_parameter_the_module_the_library_and_the_tensor(
    tiny_bundle: Path, bundle: Path, capsys: Captured
) -> None:
    assert _differences(tiny_bundle, bundle, capsys) == []
    values = json.loads((bundle / "preprocess.json").read_text())
    values["image"]["max_pixels"] += 1
    values["audio"]["extra"] = 1
    (bundle / "preprocess.json").write_text(json.dumps(values))
    weights = dict(Bundle.open(tiny_bundle).tensors())
    weights["model.norm.weight"] = weights["model.norm.weight"] + 0.25
    del weights["visual.merger.ln_q.weight"]
    save_file({k: v.contiguous() for k, v in weights.items()}, bundle / "weights/model.safetensors")
    (bundle / "golden/text.0.txt").write_text("other")
    old = Bundle.open(tiny_bundle).manifest
    reseal(
        bundle,
        name="tiny-2026.02",
        code={
            **old.code,
            "pipelines/models/qwen/log_mel.py": "0" * 64,
            "pipelines/new.py": "0" * 64,
        },
        libraries={**old.libraries, "torch": "2.12.0"},
    )
    lines = _differences(tiny_bundle, bundle, capsys)
    assert lines == [
        "name: tiny-2026.01 -> tiny-2026.02",
        f"library torch: {old.libraries['torch']} -> 2.12.0",
        "code: pipelines/models/qwen/log_mel.py differs",
        "code: pipelines/new.py is in the second only",
        "weights: model.norm.weight differs by up to 0.25",
        "weights: visual.merger.ln_q.weight is in the first only",
        "golden/text.0.txt: content differs (43 -> 5 bytes)",
        "preprocess.json: image.max_pixels 12544 -> 12545",
        "preprocess.json: audio.extra is in the second only",
    ]


def test_diff_against_the_running_code(bundle: Path, capsys: Captured) -> None:
    assert run("diff", bundle) == 0
    assert "no difference" in capsys.readouterr().out
    old = Bundle.open(bundle).manifest
    reseal(
        bundle, code={k: v for k, v in old.code.items() if k != "pipelines/models/qwen/log_mel.py"}
    )
    assert run("diff", bundle) == 0
    assert "pipelines/models/qwen/log_mel.py is in the second only" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["build"],
        ["nothing"],
        ["verify"],
        ["inspect", "x", "--flag"],
    ],
)
def test_wrong_usage_has_another_exit_code_than_a_refusal(
    arguments: list[str], capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: pipelines" in capsys.readouterr().err


def test_a_bad_name_or_device_is_wrong_usage(bundle: Path, tmp_path: Path) -> None:
    source = single(tmp_path / "a")
    labels = tmp_path / "labels.txt"
    labels.write_text(LABELS)
    command = [
        "build",
        "--from",
        str(source),
        "--labels",
        str(labels),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--name", "no+plus"]) == 2
    assert run("verify", bundle, "--device", "abacus") == 2
    assert main([*command, "--name", "a", "--preprocess", str(tmp_path / "none.json")]) == 2


@pytest.mark.parametrize("command", ["build", "verify", "inspect", "restamp", "diff", "sign"])
def test_help_of_every_command_reads(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: pipelines {command}" in capsys.readouterr().out
