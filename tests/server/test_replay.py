"""A kept payload answered again: by the running server, by another bundle."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.commands.output.status_report import printable
from server.rehearsal.replay import ReplaySide, compare, named
from server.request.validation import prediction_id
from server.telemetry.record import FeatureSpec
from tests.support.running import asked
from tests.support.tinybundle import make_bundle

Captured = pytest.CaptureFixture[str]
OUTPUTS = {"confidence": 0.7, "margin": 0.4, "entropy": 0.8, "closed_set_mass": 0.1}
SCHEMA = [
    FeatureSpec("text.words", "text", "numeric", "1"),
    FeatureSpec("image.format", "image", "categorical", "", ("JPEG", "PNG")),
    FeatureSpec("audio.rms_dbfs", "audio", "numeric", "dB"),
]


def side(**changes: Any) -> ReplaySide:
    fields: dict[str, Any] = {
        "label": "ok",
        "outputs": OUTPUTS,
        "features": named([3.0, 1.0, math.nan], SCHEMA),
        "tolerance": 1e-3,
    }
    return ReplaySide("ab" * 32, "tiny", **(fields | changes))


def differing(kept: ReplaySide, now: ReplaySide) -> list[str]:
    return [line.name for line in compare(kept, now) if line.differs]


def test_the_same_answer_differs_in_nothing() -> None:
    assert differing(side(), side()) == []
    names = [line.name for line in compare(side(), side())]
    assert names == ["stamp", "label", *OUTPUTS, "text.words", "image.format"]


def test_rounding_is_no_difference_and_more_is() -> None:
    assert differing(side(), side(outputs=OUTPUTS | {"margin": 0.4 + 5e-4})) == []
    assert differing(side(), side(outputs=OUTPUTS | {"margin": 0.41})) == ["margin"]
    near, far = named([3.002, 1.0, 0.0], SCHEMA), named([3.1, 0.0, -20.0], SCHEMA)
    assert differing(side(), side(features=near)) == ["audio.rms_dbfs"]
    assert differing(side(), side(features=far)) == [spec.name for spec in SCHEMA]


def test_an_output_that_neither_answer_has_is_not_a_difference() -> None:
    embedding = side(label="", outputs=dict.fromkeys(OUTPUTS, math.nan))
    assert differing(embedding, embedding) == []
    assert "margin" not in [line.name for line in compare(embedding, embedding)]
    assert differing(embedding, side(label="")) == list(OUTPUTS)


def test_the_tolerance_is_the_one_of_the_replicas_that_answer() -> None:
    """bfloat16 moves an answer by far more than float32, and is not another model for that."""
    rough = side(outputs=OUTPUTS | {"margin": 0.45}, tolerance=0.1)
    assert differing(side(), rough) == []
    assert differing(side(), replace(rough, tolerance=1e-3)) == ["margin"]
    unknown = replace(rough, tolerance=0.0)
    assert differing(replace(side(), tolerance=0.0), unknown) == ["margin"]


def test_another_label_at_a_near_tie_is_shown_as_one() -> None:
    close = OUTPUTS | {"margin": 5e-4}
    kept, now = side(outputs=close), side(outputs=close, label="stop")
    label = next(line for line in compare(kept, now) if line.name == "label")
    assert label.near_tie and not label.differs
    for clear in (side(label="stop"), side(label="stop", outputs={})):
        assert "label" in differing(kept, clear)


def test_an_error_is_compared_like_an_answer() -> None:
    failed = ReplaySide("ab" * 32, "", error="INVALID_ARGUMENT/IMAGE_TRUNCATED")
    assert differing(failed, failed) == []
    assert "error" in differing(failed, side())


def test_categories_are_named_and_features_of_another_schema_are_not_guessed() -> None:
    assert named([3.0, 2.0, math.nan], SCHEMA) == {"text.words": 3.0, "image.format": "(new)"}
    assert named([3.0], SCHEMA) == {}


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tiny_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a prediction whose payload tiny_server has kept."""
    arguments = ["predict", "--server", tiny_server, "--text", "hum", "--slice", "site=b", "--json"]
    done = subprocess.run([sys.executable, "-m", "server.main", *arguments], capture_output=True)
    return str(json.loads(done.stdout)["prediction_id"])


def test_the_running_server_gives_the_same_answer_again(
    tiny_server: str, kept: str, capsys: Captured
) -> None:
    code, out, _ = asked(capsys, "replay", "--server", tiny_server, kept, "--json")
    found = json.loads(out)
    lines = {line["name"]: line for line in found["lines"]}
    assert code == 0 and found["same"] and found["differs"] == []
    assert found["tolerance"] == 1e-3  # of the golden answers, as the replica reported it
    assert lines["text.chars"]["kept"] == lines["text.chars"]["now"] == 3.0
    # The record, by Observe, beside the answer.
    tokens = lines["tokens_used"]
    assert tokens["kept"] == tokens["now"] == lines["request.tokens"]["now"] > 0
    assert lines["label"]["now"] == max(found["scores"], key=found["scores"].get)
    _, out, _ = asked(capsys, "replay", "--server", tiny_server, kept)
    assert "the same answer" in out and "site=b" in out and "text.chars" in out


def test_another_bundle_is_recognised(
    tiny_server: str, kept: str, tmp_path: Path, capsys: Captured
) -> None:
    other = make_bundle(tmp_path / "other", seed=1)
    arguments = ("replay", "--server", tiny_server, kept, "--bundle", str(other))
    code, out, _ = asked(capsys, *arguments, "--json")
    found = json.loads(out)
    lines = {line["name"]: line for line in found["lines"]}
    assert code == 0 and not found["same"]
    assert lines["stamp"]["kept"] != lines["stamp"]["now"]
    assert {"stamp", "confidence", "output.confidence"} <= set(found["differs"])
    assert not lines["text.chars"]["differs"] and found["tolerance"] == 1e-3


def test_what_cannot_be_replayed_is_reported(
    tiny_server: str, tmp_path: Path, capsys: Captured
) -> None:
    code, _, err = asked(capsys, "replay", "--server", tiny_server, "0" * 32)
    assert code == 3 and "knows no prediction" in err
    old = prediction_id(1_780_000_000_000)
    code, _, err = asked(capsys, "replay", "--server", tiny_server, old)
    assert code == 3 and "made 2026-05-28" in err and "older than --keep-days" in err
    code, _, err = asked(capsys, "replay", "a", "--data", str(tmp_path), "--bundle", "x")
    assert code == 1 and "cannot read" in err


def test_what_a_client_sent_cannot_talk_to_the_terminal() -> None:
    assert printable("größe=\x1b[31m\n\u202e") == "größe=\\x1b[31m\\n\\u202e"
