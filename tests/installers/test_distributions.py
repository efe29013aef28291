"""Both distributions, built as wheel and sdist and installed in clean environments.

Needs no network: hatchling and the libraries come from this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.running import ROOT

SOURCES = {"trefoil_serve": ROOT, "trefoil_client": ROOT / "clients" / "python"}
KINDS = ("wheel", "sdist")
PACKAGES = ("server", "console", "pipelines", "proto")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment without pip."""

    folder: Path

    @property
    def site(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def top_level(self) -> set[str]:
        return {path.name for path in self.site.iterdir()}

    def install(self, *arguments: str | Path) -> None:
        """Without an index: pip ends badly when a requirement is not there already."""
        pip("--python", self.folder, "install", "--no-index", "--no-compile", *arguments)

    def run(
        self, program: str, *arguments: str, at: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=at,
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def environment(folder: Path) -> Environment:
    venv.create(folder, with_pip=False, symlinks=True)
    return Environment(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str], Path]:
    """(distribution, kind) -> a wheel: built from the tree, or from the sdist built from it."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make setup")
    trees, sdists = (tmp_path_factory.mktemp(name) for name in ("trees", "sdists"))
    found = {}
    for name, source in SOURCES.items():
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(trees)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
        (sdist,) = trees.glob(f"{name}-*.tar.gz")
        pip("wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", sdists, sdist)
        (found[name, "wheel"],) = trees.glob(f"{name}-*.whl")
        (found[name, "sdist"],) = sdists.glob(f"{name}-*.whl")
    return found


@pytest.fixture(scope="module")
def serving(
    built: Mapping[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Both wheels alone; other libraries are found in the environment of this test."""
    found = environment(tmp_path_factory.mktemp("serving"))
    found.install("--no-deps", built["trefoil_serve", "wheel"], built["trefoil_client", "wheel"])
    (found.site / "libraries.pth").write_text(str(Path(pytest.__file__).parent.parent))
    return found


def about(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def needed(wheel: Path) -> dict[str, metadata.Distribution]:
    """What pip would install with it, out of this environment."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(about(wheel).get_all("Requires-Dist") or ())
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found[requirement.name] = metadata.distribution(requirement.name)
            waiting += found[requirement.name].requires or ()
    return found


def copy(distribution: metadata.Distribution, site: Path) -> None:
    for file in distribution.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(distribution.locate_file(file)), target)


@pytest.mark.parametrize("name", SOURCES)
def test_a_wheel_is_the_same_from_the_tree_and_from_the_sdist(
    name: str, built: Mapping[tuple[str, str], Path]
) -> None:
    wheel, again = (built[name, kind] for kind in KINDS)
    assert files_of(wheel) == files_of(again)
    assert about(wheel).as_string() == about(again).as_string()


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_installs_with_its_libraries_and_adds_one_package(
    kind: str, built: Mapping[tuple[str, str], Path], tmp_path: Path
) -> None:
    wheel, clean = built["trefoil_client", kind], environment(tmp_path / "clean")
    libraries = needed(wheel)
    for distribution in libraries.values():
        copy(distribution, clean.site)
    before = clean.top_level
    clean.install(wheel)
    assert clean.top_level - before == {"trefoil", "trefoil_client-0.1.0.dist-info"}
    assert {"grpcio", "protobuf", "googleapis-common-protos"} <= set(libraries)
    assert (clean.site / "trefoil" / "py.typed").is_file()
    code = (
        "import trefoil, sys; trefoil.Client('127.0.0.1:1').close(); print(trefoil.__file__);"
        "sys.exit(', '.join({'numpy', 'proto', 'server', 'torch'} & set(sys.modules)) or 0)"
    )
    done = clean.run("python", "-c", code, at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(clean.site))


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_installs_its_four_packages_and_neither_recipe_nor_client(
    kind: str, built: Mapping[tuple[str, str], Path], tmp_path: Path
) -> None:
    clean = environment(tmp_path / "clean")
    before = clean.top_level
    clean.install("--no-deps", built["trefoil_serve", kind])
    added = {*PACKAGES, "trefoil_serve.py", "trefoil_serve-0.1.0.dist-info"}
    assert clean.top_level - before == added
    assert (clean.site / "pipelines" / "triage" / "bundle" / "manifest.json").is_file()
    assert not [name for name in clean.site.rglob("*") if name.name in ("recipes", "clients")]


def test_the_server_asks_for_the_client_of_its_own_version(
    built: Mapping[tuple[str, str], Path],
) -> None:
    server, client = (about(built[name, "wheel"]) for name in SOURCES)
    asked = [Requirement(line) for line in server.get_all("Requires-Dist") or ()]
    pins = [(str(r.specifier), str(r.marker)) for r in asked if r.name == "trefoil-client"]
    assert pins == [(f"=={client['Version']}", 'extra == "server"')]
    assert server["Version"] == client["Version"]
    assert "client" not in (server.get_all("Provides-Extra") or ())


def test_both_have_the_licence() -> None:
    texts = {(source / "LICENSE").read_text() for source in SOURCES.values()}
    assert len(texts) == 1


def test_the_installed_commands_start(serving: Environment, tmp_path: Path) -> None:
    for command in ("server", "console", "pipelines"):
        done = serving.run(command, "--help", at=tmp_path, QT_QPA_PLATFORM="offscreen")
        assert done.returncode == 0 and f"usage: {command}" in done.stdout, done.stderr
    done = serving.run("server", "probe", "--server", "127.0.0.1:1", at=tmp_path)
    assert (done.returncode, done.stdout) == (1, "unreachable\n")
    assert done.stderr.startswith("no server at 127.0.0.1:1: ")


# ---- a foreign package of the same name ----------------------------------------------------------


@pytest.fixture(params=["module", "package"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for `make`, which writes a module or a package into it."""
    return tmp_path / str(request.param)


def make(folder: Path, name: str) -> Path:
    file = folder / f"{name}.py" if folder.name == "module" else folder / name / "__init__.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("raise SystemExit('not ours')\n")
    return file


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("command", ["server", "console", "pipelines"])
def test_a_foreign_package_on_the_path_ends_a_command_with_one_line(
    command: str, name: str, foreign: Path, serving: Environment, tmp_path: Path
) -> None:
    file = make(foreign, name)
    done = serving.run(command, "--help", at=tmp_path, PYTHONPATH=str(foreign))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{command}: {file} shadows {serving.site / name}: take {foreign} off PYTHONPATH,"
        " or rename the file\n"
    )


def test_a_server_does_not_look_in_the_current_directory(
    foreign: Path, serving: Environment
) -> None:
    for name in PACKAGES:
        make(foreign, name)
    done = serving.run("server", "--bundle", "nowhere", at=foreign)
    assert done.returncode == 78 and "nowhere is not a bundle" in done.stdout, done.stderr
    assert serving.run("server", "probe", "--server", "127.0.0.1:1", at=foreign).returncode == 1


def test_what_only_looks_foreign_is_passed_over(serving: Environment, tmp_path: Path) -> None:
    """A folder without modules is no package to Python as long as there is a real one; proto-plus
    puts its `proto/__init__.py` beside our modules."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
    init = serving.site / "proto" / "__init__.py"
    init.touch()
    done = serving.run("server", "--help", at=tmp_path, PYTHONPATH=str(tmp_path))
    init.unlink()
    assert done.returncode == 0, done.stderr


def test_a_foreign_proto_of_another_distribution_is_named(
    serving: Environment, tmp_path: Path
) -> None:
    """As proto-plus beside an editable install of ours: a regular package wins over a folder."""
    file = make(tmp_path / "site", "proto")
    (serving.site / "other.pth").write_text(str(tmp_path / "site"))
    done = serving.run("server", "status", at=tmp_path)
    (serving.site / "other.pth").unlink()
    assert done.returncode == 2
    assert done.stderr.startswith(f"server: {file} shadows {serving.site / 'proto'}: uninstall")
    assert done.stderr.count("\n") == 1
