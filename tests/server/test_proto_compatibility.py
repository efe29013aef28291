"""The wire format keeps what the last release promised; a breaking change is named with its
remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proto import compatibility
from proto.compatibility import Contract, breaks

BEFORE: Contract = {
    "trefoil.v1.Row": {"name": "1 string", "notes": "2 repeated string"},
    "trefoil.v1.Level": {"OK": "0", "HIGH": "1"},
    "trefoil.v1.Watch": {"Follow": "trefoil.v1.Row -> stream trefoil.v1.Row"},
}


def changed(owner: str, **members: str | None) -> Contract:
    """BEFORE with members of one owner set, or taken away (None)."""
    now = {name: dict(content) for name, content in BEFORE.items()}
    for name, what in members.items():
        if what is None:
            del now[owner][name]
        else:
            now[owner][name] = what
    return now


def test_the_wire_keeps_what_the_last_release_promised() -> None:
    assert breaks(compatibility.accepted(), compatibility.contract()) == []


def test_the_stored_contract_is_not_empty() -> None:
    stored = compatibility.accepted()
    assert stored["trefoil.v1.PredictRequest"] and stored["trefoil.v1.Inference"]["Predict"]
    assert "inference.GRPCInferenceService" in stored


def test_an_addition_breaks_nothing() -> None:
    now = changed("trefoil.v1.Row", age="3 double")
    now["trefoil.v1.New"] = {"a": "1 string"}
    assert breaks(BEFORE, now) == []


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (changed("trefoil.v1.Row", notes=None), "trefoil.v1.Row.notes was removed."),
        (changed("trefoil.v1.Row", name="4 string"), "was `1 string` and is `4 string`."),
        (changed("trefoil.v1.Row", name="1 bytes"), "was `1 string` and is `1 bytes`."),
        (changed("trefoil.v1.Row", notes="2 string"), "is `2 string`."),
        (changed("trefoil.v1.Row", name=None, title="1 string"), "was renamed `title`."),
        (changed("trefoil.v1.Level", HIGH="2"), "trefoil.v1.Level.HIGH was `1` and is `2`."),
        (changed("trefoil.v1.Watch", Follow=None), "trefoil.v1.Watch.Follow was removed."),
        ({**BEFORE, "trefoil.v1.Row": {}}, "trefoil.v1.Row.name was removed."),
        ({k: v for k, v in BEFORE.items() if "Row" not in k}, "trefoil.v1.Row was removed."),
    ],
)
def test_a_break_is_named_with_its_remedy(now: Contract, shown: str) -> None:
    (first, *_) = breaks(BEFORE, now)
    assert shown in first
    assert "Keep" in first and compatibility.ACCEPT in first


def test_accepting_stores_the_contract_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "accepted.json"
    stored.write_text(json.dumps({"trefoil.v1.Gone": {}}))
    assert compatibility.main([], stored) == 1
    assert "trefoil.v1.Gone was removed" in capsys.readouterr().out
    assert compatibility.main(["--accept"], stored) == 0
    assert compatibility.main([], stored) == 0
    assert json.loads(stored.read_text()) == compatibility.contract()
