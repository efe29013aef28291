"""Which tests a change touches, on a project made for it and on this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.affected import (
    ROOT,
    Budget,
    affected_tests,
    changed_files,
    distances,
    graph,
    sources,
)

TEXTS = {
    "app/__init__.py": "",
    "app/low.py": "",
    "app/middle.py": "from app import low",
    "app/late.py": "def f():\n    from app.middle import g",
    "app/relative.py": "from . import low",
    "app/inner/__init__.py": "",
    "app/inner/deep.py": "from ..middle import g",
    "tests/helper.py": "import app.late",
    "tests/test_low.py": "from app.low import f",
    "tests/test_late.py": "from tests import helper",
    "tests/test_started.py": "run(['python', '-m', 'app.middle'])",
    "tests/test_deep.py": "from app.inner.deep import g",
    "tests/test_alone.py": "PATH = 'data/table.csv'",
}


def test_tests_are_those_that_import_the_change_nearest_first() -> None:
    assert affected_tests(["app/low.py"], TEXTS) == [
        "tests/test_low.py",
        "tests/test_started.py",
        "tests/test_deep.py",
        "tests/test_late.py",
    ]
    assert affected_tests(["app/late.py"], TEXTS) == ["tests/test_late.py"]
    assert affected_tests(["tests/test_alone.py"], TEXTS) == ["tests/test_alone.py"]


def test_late_relative_and_started_modules_are_imports_too() -> None:
    imports = graph(TEXTS)
    assert "app/middle.py" in imports["app/late.py"]
    assert "app/low.py" in imports["app/relative.py"]
    assert "app/middle.py" in imports["app/inner/deep.py"]
    assert "app/middle.py" in imports["tests/test_started.py"]
    assert distances(["app/low.py"], imports)["tests/test_late.py"] == 4


def test_data_touches_who_names_it_and_a_stranger_touches_nothing() -> None:
    assert affected_tests(["data/table.csv"], TEXTS) == ["tests/test_alone.py"]
    assert affected_tests(["data/other.csv", "gone.py"], TEXTS) == []


def test_changes_are_those_since_the_last_commit_and_what_is_not_committed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for number in range(3):
        (tmp_path / f"{number}.py").write_text("")
        git("add", ".")
        git("commit", "-q", "-m", str(number))
    (tmp_path / "new.py").write_text("")
    assert changed_files(tmp_path) == ["2.py", "new.py"]
    (tmp_path / "0.py").write_text("x = 1")
    assert changed_files(tmp_path) == ["0.py", "2.py", "new.py"]


def test_the_graph_of_this_project_has_its_tests_above_what_they_import() -> None:
    imports = graph(sources())
    tests = [path for path in imports if Path(path).name.startswith("test_")]
    assert len(tests) > 50
    here = Path(__file__).relative_to(ROOT).as_posix()
    (module,) = [path for path in imports[here] if Path(path).name == "affected.py"]
    assert distances([module], imports)[here] == 1


def test_no_test_is_begun_after_the_time_is_up(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass\n\ndef test_b(): pass")
    pytester.makeini("[pytest]")
    budget = Budget(0.0)
    found = pytester.inline_run(plugins=[budget])
    passed, _, failed = found.countoutcomes()
    assert (passed, failed, budget.over) == (1, 0, True)
