"""The test files to run for a change: those that import what changed, nearest first.

    python -m tests.support.affected            files changed since origin/main, or else HEAD~1
    python -m tests.support.affected --list FILE ...

Everything is read from the sources: modules are the Python files that git knows, imports are those
in their text (late ones and `tests.support` helpers too), and a changed file that is not a module
(the embedded bundle, a .proto, docs) affects the modules and tests whose text names it.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a person waits for beside ruff and mypy; no test is begun after it. `make test` runs all.
BUDGET_S = 30.0
BASES = ("origin/main", "HEAD~1")
# Packages that are imported by another name than their path.
PREFIXES = ("examples.client.", "clients.python.")

Graph = Mapping[str, frozenset[str]]  # file -> the files it imports


def changed_files(root: Path = ROOT) -> list[str]:
    """Paths that differ from the merge base with the first of BASES, uncommitted ones included.

    On a main that was pushed already that is the last commit. Raises CalledProcessError outside a
    repository.
    """
    for base in BASES:
        found = _git(root, "merge-base", "HEAD", base, check=False)
        start = found[0] if found else ""
        changed = _git(root, "diff", "--name-only", start, check=False) if start else []
        if changed:
            break
    new = _git(root, "ls-files", "--others", "--exclude-standard")
    return sorted({*changed, *new})


def sources(root: Path = ROOT) -> dict[str, str]:
    """The text of every Python file that git tracks or would track, by path."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "*.py")
    return {name: (root / name).read_text() for name in listed if (root / name).is_file()}


def graph(texts: Mapping[str, str]) -> Graph:
    """What each file imports of the others. A package's __init__ counts as imported with it."""
    files = {name: path for path in texts for name in _names(path)}
    return {path: frozenset(_imported(path, text, files)) - {path} for path, text in texts.items()}


def distances(changed: Iterable[str], imports: Graph) -> dict[str, int]:
    """How many imports lie between each file and the nearest changed one; 0 for the changed."""
    users: dict[str, set[str]] = {}
    for path, imported in imports.items():
        for other in imported:
            users.setdefault(other, set()).add(path)
    found = {path: 0 for path in changed if path in imports}
    edge = list(found)
    while edge:
        path = edge.pop(0)
        for user in sorted(users.get(path, ())):
            if user not in found:
                found[user] = found[path] + 1
                edge.append(user)
    return found


def affected_tests(changed: Iterable[str], texts: Mapping[str, str]) -> list[str]:
    """Test files, nearest first; of those equally near, the one that imports least."""
    changed, imports = list(changed), graph(texts)
    named = [path for path, text in texts.items() if _names_one_of(text, changed, texts)]
    near = distances([*changed, *named], imports)
    tests = [path for path in near if _is_test(path)]
    return sorted(tests, key=lambda path: (near[path], len(imports[path]), path))


def _names_one_of(text: str, changed: Iterable[str], texts: Mapping[str, str]) -> bool:
    """Whether a file's text names something changed that is not a module."""
    return any(Path(path).name in text for path in changed if path not in texts)


def _is_test(path: str) -> bool:
    return Path(path).name.startswith("test_")


def _names(path: str) -> Iterator[str]:
    """Names a file is imported by."""
    name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    yield name
    yield from (name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix))


def _imported(path: str, text: str, files: Mapping[str, str]) -> Iterator[str]:
    package = path.removesuffix(".py").replace("/", ".").rsplit(".", 1)[0]
    for node in ast.walk(ast.parse(text)):
        for name in _wanted(node, package):
            parts = name.split(".")
            known = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            yield from (files[one] for one in known if one in files)


def _wanted(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # `python -m server.main` in a list of arguments, and scripts handed to a child.
        dotted = "." in node.value and node.value.replace(".", "_").isidentifier()
        return [node.value] if dotted else []
    return []


def _git(root: Path, *arguments: str, check: bool = True) -> list[str]:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=check
    )
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


class Budget:
    """A plugin of pytest: once the time is up, the tests that are left are not begun."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self.over = False

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    def pytest_runtest_logfinish(self) -> None:
        if time.monotonic() > self._end:
            self.over = True
            self._session.shouldstop = f"{self._seconds:.0f} s are over; make test runs the rest"


def run(tests: Sequence[str], budget_s: float) -> int:
    """The exit code of pytest, 0 when it was only stopped for time."""
    budget = Budget(budget_s)
    code = int(pytest.main(["-x", *(str(ROOT / test) for test in tests)], plugins=[budget]))
    return 0 if budget.over and code == pytest.ExitCode.INTERRUPTED else code


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests that a change touches.")
    parser.add_argument("files", nargs="*", help="what changed, instead of asking git")
    parser.add_argument("--list", action="store_true", help="name the tests, run none")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds")
    options = parser.parse_args()
    changed = options.files or changed_files()
    tests = affected_tests(changed, sources())
    print(f"{len(changed)} changed files touch {len(tests)} test files, nearest first")  # noqa: T201
    if options.list:
        print("\n".join(tests))  # noqa: T201
    return 0 if options.list or not tests else run(tests, options.budget)


if __name__ == "__main__":
    sys.exit(main())
