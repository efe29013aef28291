"""What documents and comments state about the tree is true: the files they name, links, tables."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

import pytest

from proto import inference_pb2, inference_pb2_grpc
from server.engine import Engine
from server.telemetry.record import FeatureSpec, Record
from tests.support.running import channel_to, listener, until
from tests.support.stub_replica import stub_config, stub_pool

ROOT = Path(__file__).resolve().parent.parent
WIDEST_TABLE = 160
MOST_SPINE_FILES = 9
# A path or a bare name that ends in .py and is not part of a longer word, a pattern or an address.
PYTHON_FILE = re.compile(r"(?<![\w/.*<>{}-])((?:\.\./)*[A-Za-z_][\w/-]*\.py)(?![\w*])")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Where a bare name is looked for when the file that names it is in none of the packages.
SOURCE_FOLDERS = ("clients/python/trefoil", "clients/python")


@dataclass(frozen=True, slots=True)
class Mention:
    """A file name as a text gives it."""

    where: str  # the text's own path, from the root
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.where}:{self.line} names {self.name}, which is not in the tree"


@cache
def tracked() -> frozenset[str]:
    """Paths of all files of the repository, from the root; new files count before they are added.

    Outside a checkout, such as in an unpacked sdist, it is what lies in the folder.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        found = (path for path in ROOT.rglob("*") if path.is_file())
        return frozenset(path.relative_to(ROOT).as_posix() for path in found)
    return frozenset(name for name in done.stdout.splitlines() if (ROOT / name).is_file())


def sources() -> list[str]:
    """Our own Python: everything but the generated stubs."""
    return sorted(name for name in tracked() if name.endswith(".py") and "_pb2" not in name)


def documents() -> list[str]:
    return sorted(
        name
        for name in tracked()
        if name.endswith(".md") and not name.startswith("pipelines/triage/bundle/")
    )


def resolves(name: str, where: str) -> bool:
    """Whether `name`, as the file `where` gives it, is a file: from the root, or beside `where` or
    one of the folders above it. A bare name may be anywhere in the same top package; a document
    belongs to none, so there it may be anywhere."""
    folder = Path(where).parent
    for start in (folder, *folder.parents):
        if _normal(start / name) in tracked():
            return True
    if any(f"{start}/{name}" in tracked() for start in SOURCE_FOLDERS):
        return True
    top = folder.parts[0] if folder.parts and where.endswith(".py") else ""
    return "/" not in name and any(
        other.endswith(f"/{name}") and other.startswith(f"{top}/" if top else "")
        for other in tracked()
    )


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of the comments and docstrings of a module."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        starts = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
        docstring = token.type == tokenize.STRING and starts
        if token.type == tokenize.COMMENT or docstring:
            yield token.start[0], token.string
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type


def mentions(where: str, text: str) -> Iterator[Mention]:
    passages = prose_of(text) if where.endswith(".py") else [(1, text)]
    for first, passage in passages:
        for number, line in enumerate(passage.splitlines(), first):
            for found in PYTHON_FILE.finditer(line):
                # Prose about an `__init__.py` is often about there being none.
                if not found[1].endswith("__init__.py"):
                    yield Mention(where, number, found[1])


def wide_tables(text: str) -> list[str]:
    return [
        f"line {number}: {len(line)} characters"
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("|") and len(line) > WIDEST_TABLE
    ]


def section(title: str) -> str:
    """One section of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"docs/architecture.md has a section {title!r}"
    return found[1]


def steps(text: str) -> list[str]:
    """The files of a numbered walk, in order: each step begins with its file."""
    return re.findall(r"^\d+\. `([\w./-]+)`", text, re.MULTILINE)


def test_every_python_file_that_is_named_exists() -> None:
    lost = [
        str(mention)
        for where in [*sources(), *documents(), "Makefile", "pyproject.toml"]
        for mention in mentions(where, (ROOT / where).read_text())
        if not resolves(mention.name, where)
    ]
    assert lost == []
    assert len(sources()) > 300, "the sources were found"


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("server/engine.py", '"""See server/routing/gone.py."""\n'),
        ("server/engine.py", "x = 1  # as gone.py has it\n"),
        ("console/app/main.py", "# deployment.py is in another package\n"),
        ("README.md", "[the engine](server/edge/rpc.py)\n"),
    ],
)
def test_a_planted_name_is_found(where: str, text: str) -> None:
    assert [mention for mention in mentions(where, text) if not resolves(mention.name, where)]


def test_code_that_is_not_prose_may_name_any_file() -> None:
    assert list(mentions("server/engine.py", 'PATH = "made/later.py"\n')) == []


@pytest.mark.parametrize("document", documents())
def test_every_relative_link_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    lost = []
    for target in LINK.findall((ROOT / document).read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        file = folder / path if path else ROOT / document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            lost.append(target)
    assert lost == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", documents())
def test_tables_fit_on_a_screen(document: str) -> None:
    assert wide_tables((ROOT / document).read_text()) == []


def test_a_planted_wide_table_is_found() -> None:
    assert wide_tables("| a |\n| " + "b" * WIDEST_TABLE + " |\n") == ["line 2: 164 characters"]


# ---- docs/architecture.md ------------------------------------------------------------------------


def test_every_path_in_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w.-]+/(?:[\w./-]*[\w/])?)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert len(named) > 100, "the paths were found"


def test_every_folder_of_the_product_is_a_room() -> None:
    rooms = set(re.findall(r"`([\w/]+/)`", section("The rooms")))
    tops = ("server/", "console/", "pipelines/")
    folders = {f"{Path(name).parent.as_posix()}/" for name in sources() if name.startswith(tops)}
    inner = {"server/commands/output/", "pipelines/models/qwen/", "pipelines/models/gemma/"}
    assert folders - inner - {"console/"} <= rooms, "each folder has its line"


@pytest.mark.parametrize("title", ["A record", "An alert", "A bundle"])
def test_each_step_of_a_walk_is_one_line_with_its_file(title: str) -> None:
    walk = steps(section(title))
    assert len(walk) > 9 and len(set(walk)) == len(walk)
    assert all((ROOT / file).is_file() for file in walk)


async def test_the_walk_of_a_request_is_the_one_it_takes() -> None:
    """Every file the front enters for a Predict is named, and every file of the spine is entered.

    The replica's half runs in another process; there only the files' existence is checked.
    """
    text = section("A request") + section("A record")
    spine = steps(section("A request"))
    assert 0 < len(spine) <= MOST_SPINE_FILES
    entered = await files_of_one_request()
    assert [file for file in sorted(entered) if f"`{file}`" not in text] == []
    ends = spine.index("server/replica/executor.py")
    assert [file for file in spine[:ends] if file not in entered] == []


async def files_of_one_request() -> set[str]:
    """The files under server/ in which this process calls a function for one Predict."""
    config = stub_config()
    pool = stub_pool(config)
    engine = Engine(config, pool, Dropped())
    await engine.start()
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT / "server"):
            entered.add(path.relative_to(ROOT).as_posix())

    try:
        await until(lambda: pool.serving)
        async with listener(engine) as address, channel_to(address) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            parts = [inference_pb2.Part(text="knocking at the drive")]
            request = inference_pb2.PredictRequest(examples=[inference_pb2.Example(parts=parts)])
            sys.setprofile(note)
            try:
                answer = await stub.Predict(request)
                await asyncio.sleep(0.05)  # the record follows the answer
            finally:
                sys.setprofile(None)
            assert answer.results[0].prediction.label
    finally:
        await engine.stop()
    return entered


class Dropped:
    """A recorder that keeps nothing."""

    def put(self, record: Record, schema: tuple[FeatureSpec, ...]) -> None:
        return None


# ---- what the pages ask a contributor to run -----------------------------------------------------


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in documents():
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (document, target)
