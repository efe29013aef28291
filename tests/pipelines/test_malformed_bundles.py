"""Bundles with impossible numbers, endless JSON and files of absurd sizes: each is refused with the
check and the name of the field, before any computation or allocation uses them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pipelines.bundle import bounds, golden, manifest, parameters
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.formats import parse_json
from pipelines.errors import BundleRefused
from pipelines.media.limits import InputLimits
from pipelines.models.gemma.log_mel import GemmaAudioConfig
from pipelines.models.gemma.patches import GemmaImageConfig
from pipelines.models.qwen.log_mel import AudioConfig
from pipelines.models.qwen.patches import ImageConfig
from pipelines.models.tokens import TextConfig
from pipelines.pipeline import Pipeline
from tests.support.tinybundle import reseal

# A number that Python writes and json does not: put into the text by hand.
HUGE, NAN = "1e400", "NaN"
MODEL, GOLDEN = "model/config.json", "golden/golden.json"


@pytest.fixture(scope="module")
def shared(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for all cases: each puts back the file it changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("malformed") / "bundle"))


def _set(values: Any, path: str, value: Any) -> None:
    *way, last = path.split("/")
    for key in way:
        values = values[int(key) if key.isdigit() else key]
    values[int(last) if last.isdigit() else last] = value


def load(path: Path) -> None:
    golden.check(Pipeline.load(path, device="cpu", threads=1), ("text",), texts=False)


# file, field, value, check, what the refusal names
NUMBERS: list[tuple[str, str, Any, str, str]] = [
    ("speed.json", "factor", HUGE, "format", "speed.json: factor is larger than any number"),
    ("speed.json", "factor", NAN, "format", "speed.json: factor is NaN"),
    ("speed.json", "floor_ms", -1.0, "config", "speed.json: floor_ms is -1"),
    ("speed.json", "default_limit_ms", 1e300, "format", "speed.json: default_limit_ms is 1e"),
    ("speed.json", "baseline", {"cpu": {"text": -3}}, "config", "baseline.cpu.text is -3"),
    ("preprocess.json", "audio/n_fft", 2**31, "config", "audio.n_fft is 2147483648"),
    ("preprocess.json", "audio/hop", 0, "config", "audio.hop is 0"),
    ("preprocess.json", "audio/n_mels", 10**6, "config", "audio.n_mels is 1000000"),
    ("preprocess.json", "audio/sample_rate", -16000, "config", "audio.sample_rate is -16000"),
    ("preprocess.json", "audio/resample_zeros", 10**9, "config", "audio.resample_zeros is"),
    ("preprocess.json", "audio/log_floor", HUGE, "format", "preprocess.json: audio.log_floor is"),
    ("preprocess.json", "image/patch_size", 0, "config", "image.patch_size is 0"),
    ("preprocess.json", "image/merge_size", -2, "config", "image.merge_size is -2"),
    ("preprocess.json", "image/max_pixels", 2**40, "config", "image.max_pixels is 1099511627776"),
    ("preprocess.json", "image/std/1", 0.0, "config", "image.std[1] is 0"),
    ("preprocess.json", "image/mean/2", NAN, "format", "preprocess.json: image.mean[2] is NaN"),
    ("preprocess.json", "text/max_tokens", -1, "config", "text.max_tokens is -1"),
    ("preprocess.json", "text/max_text_tokens", 10**400, "format", "text.max_text_tokens is a num"),
    ("preprocess.json", "limits/max_row_bytes", -5, "config", "limits.max_row_bytes is -5"),
    ("preprocess.json", "limits/max_audio_s", 1e12, "config", "limits.max_audio_s is 1e+12"),
    ("preprocess.json", "limits/max_image_pixels", 2**50, "config", "limits.max_image_pixels is"),
    ("labels.json", "temperature", 0.0, "config", "temperature 0.0 is not between"),
    ("labels.json", "labels", [{"name": "x", "text": "x"}] * 5000, "config", "labels has 5000"),
    (MODEL, "text_config/num_hidden_layers", 2**31, "config", "text_config.num_hidden_layers is"),
    (MODEL, "text_config/num_attention_heads", 0, "config", "text_config.num_attention_heads is 0"),
    (MODEL, "text_config/hidden_size", -32, "config", "text_config.hidden_size is -32"),
    (MODEL, "text_config/rope_theta", NAN, "format", "text_config.rope_theta is NaN"),
    (MODEL, "vision_config/depth", 10**7, "config", "vision_config.depth is 10000000"),
    (MODEL, "vision_config/spatial_merge_size", 0, "config", "vision_config.spatial_merge_size"),
    (MODEL, "audio_config/max_source_positions", 2**31, "config", "audio_config.max_source_pos"),
    (MODEL, "audio_config/encoder_layers", 2**40, "config", "audio_config.encoder_layers is"),
    (MODEL, "image_token_index", 2**45, "config", "image_token_index is 35184372088832"),
    (MODEL, "text_config/num_attention_heads", "two", "config", MODEL),
    (MODEL, "vision_config/window_size", "big", "config", MODEL),
    (GOLDEN, "tolerance/float32", 1e300, "format", "golden.json: tolerance.float32 is 1e"),
    (GOLDEN, "tolerance/float32", 7.0, "golden", "tolerance.float32 is 7"),
    (GOLDEN, "cases/0/expected/embedding/0", HUGE, "format", "cases[0].expected.embedding[0] is"),
    (GOLDEN, "cases/3/parts", 4, "golden", "cases[3] is malformed"),
    (GOLDEN, "cases/2/expected/scores/watch", [1], "golden", "cases[2] is malformed"),
    ("tokenizer/tokenizer.json", "model/vocab", {"a": -1}, "config", "tokenizer.json"),
    ("tokenizer/tokenizer.json", "added_tokens", [3], "config", "added_tokens"),
    ("tokenizer/tokenizer.json", "model", "BPE", "config", "tokenizer.json is malformed"),
    ("objective.json", "value/watch/watch", HUGE, "format", "objective.json: value.watch.watch"),
]


@pytest.mark.parametrize(("file", "field", "value", "check", "named"), NUMBERS)
def test_a_number_out_of_bounds_is_refused_by_name(
    shared: Path, file: str, field: str, value: Any, check: str, named: str
) -> None:
    place = shared / file
    before, sealed = place.read_bytes(), (shared / manifest.FILE).read_bytes()
    values = json.loads(before)
    raw = isinstance(value, str) and value in (HUGE, NAN)
    _set(values, field, "@" if raw else value)
    try:
        text = json.dumps(values)
        place.write_text(text.replace('"@"', value) if raw else text)
        reseal(shared)
        with pytest.raises(BundleRefused) as caught:
            load(shared)
    finally:
        place.write_bytes(before)
        (shared / manifest.FILE).write_bytes(sealed)
    assert caught.value.check == check, str(caught.value)
    assert named in caught.value.message
    assert len(caught.value.message) < 700


def test_what_is_put_back_loads(shared: Path) -> None:
    load(shared)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 32"),
        ("[" * 100_000, "deeper than 32"),
        ('{"deep":' + "[" * 40 + "7" + "]" * 40 + "}", "deep[0][0]"),
        ('{"' + "k" * 9_000 + '": 1e999}', "k" * 80 + "…"),
        ('{"' + "k" * 9_000 + '": 1, "' + "k" * 9_000 + '": 2}', "appears twice"),
        ('{"n": ' + "9" * 5_000 + "}", "does not parse"),
        ('{"n": ' + "9" * 400 + "}", "n is a number of"),
    ],
)
def test_json_of_any_shape_is_refused_with_a_short_message(text: str, named: str) -> None:
    with pytest.raises(BundleRefused) as caught:
        parse_json("labels.json", text.encode())
    assert caught.value.check == "format"
    assert named in caught.value.message and "labels.json" in caught.value.message
    assert len(caught.value.message) < 300


def _sized(size: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["files"][1].update(size=size)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_sized(-1), "files[1].size is -1"),
        (_sized(2**50), "files[1].size is 1125899906842624"),
        (_sized(1.5), "files[1].size is 1.5"),
        (lambda v: v["files"][2].update(path=7), "files[2].path"),
        (lambda v: v["files"][2].pop("sha256"), "'sha256' is missing"),
        (lambda v: v.update(files=[{}] * 5_000), "files is not a list of at most 4096"),
        (lambda v: v["code"].update(modules={"a": "b"}), "code.modules.a is not a sha256"),
        (lambda v: v.update(libraries={"torch": 2}), "libraries.torch"),
        (lambda v: v.update(human={"note": "x" * 100_000}), "human.note"),
        (lambda v: v.update(code=[]), "code is not an object"),
    ],
)
def test_a_manifest_out_of_bounds_is_refused_by_name(
    tiny_bundle: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    values = json.loads((tiny_bundle / manifest.FILE).read_bytes())
    change(values)
    with pytest.raises(BundleRefused) as caught:
        manifest.read(json.dumps(values).encode())
    assert caught.value.check in ("manifest", "format")
    assert named in caught.value.message


@pytest.mark.parametrize("name", ["labels.json", "CARD.md", "golden/extra.wav"])
def test_a_file_too_large_to_parse_is_refused_before_a_byte_is_read(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with (copy / name).open("ab") as file:
        os.truncate(file.fileno(), 3 << 30)  # sparse: takes no place on the disk
    with pytest.raises(BundleRefused, match=f"{name} has 3221225472 bytes") as caught:
        Bundle.open(copy)
    assert caught.value.check == "kind"


SECTIONS = {
    "image": (ImageConfig, GemmaImageConfig),
    "audio": (AudioConfig, GemmaAudioConfig),
    "text": (TextConfig,),
    "limits": (InputLimits,),
}


def test_every_number_of_the_preprocessing_has_a_bound() -> None:
    """A new parameter needs one: the rest of the table would not notice it."""
    named = set()
    for section, classes in SECTIONS.items():
        for cls in classes:
            assert is_dataclass(cls)
            hints = get_type_hints(cls)
            numeric = (int, float, tuple[float, ...])
            named |= {f"{section}.{f.name}" for f in fields(cls) if hints[f.name] in numeric}
    without = named - set(bounds.PARAMETERS)
    # The limits of decoding grow with the decoders; the bound of all others applies to them.
    assert {name for name in without if not name.startswith("limits.")} == set()
    assert set(bounds.PARAMETERS) <= named, "a bound for a parameter that is not there any more"


def test_a_limit_of_the_bundle_is_bounded_too() -> None:
    with pytest.raises(BundleRefused, match="limits.max_parts is 0"):
        InputLimits.from_dict(parameters.write(replace(InputLimits(), max_parts=0)))
