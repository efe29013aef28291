"""The committed stubs match the .proto files, and `proto` stays a namespace directory."""

from __future__ import annotations

import filecmp
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.running import ROOT

PROTO = ROOT / "proto"
CLIENT = ROOT / "clients" / "python" / "trefoil" / "_proto"


def generated_names(folder: Path) -> list[str]:
    patterns = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*.binpb")
    return sorted(path.name for pattern in patterns for path in folder.glob(pattern))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    try:
        runpy.run_path(str(PROTO / "generate.py"))["generate"](out)
    except SystemExit as end:
        pytest.skip(f"stubs were not generated: {end}")
    return out


@pytest.mark.parametrize("folder", [PROTO, CLIENT], ids=["server", "client"])
def test_committed_stubs_are_current(folder: Path, fresh: Path) -> None:
    made = fresh / folder.relative_to(ROOT)
    names = sorted(path.name for path in made.iterdir())
    assert names == generated_names(folder)
    _, different, missing = filecmp.cmpfiles(folder, made, names, shallow=False)
    assert (different, missing) == ([], []), "run `python proto/generate.py` and commit"


@pytest.mark.parametrize("first", ["proto", "trefoil._proto"])
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_one_process_may_import_both_copies_of_the_stubs(first: str, implementation: str) -> None:
    """In either order, with either implementation of protobuf: there is one set of classes."""
    second = {"proto": "trefoil._proto", "trefoil._proto": "proto"}[first]
    code = (
        f"from {first} import inference_pb2 as one\nfrom {second} import inference_pb2 as two\n"
        "from proto import admin_pb2\nfrom google.protobuf.internal import api_implementation\n"
        "part = two.Part(text='hum')\n"
        "assert one.Example(parts=[part]).parts[0] == part and one.Part is two.Part\n"
        "assert one.Example(parts=[part], slices=two.Example(slices={'a': 'b'}).slices)\n"
        "print(api_implementation.Type())"
    )
    path = os.pathsep.join((str(CLIENT.parent.parent), str(ROOT)))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, implementation), done.stderr


def test_proto_has_no_init_so_that_proto_plus_can_live_beside_it() -> None:
    assert not (PROTO / "__init__.py").exists()


def test_the_open_inference_protocol_has_no_module_of_ours() -> None:
    assert not list(PROTO.glob("open_inference_pb2*"))


def floors(pyproject: Path) -> dict[str, str]:
    """Library -> the least version that the distribution accepts."""
    asked = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    pairs = (re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", one) for one in asked)
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_client_accepts_all_that_its_stubs_do() -> None:
    """A higher floor would keep it from installing beside what needs an older protobuf."""
    asked = floors(CLIENT.parent.parent / "pyproject.toml")
    messages = (CLIENT / "inference_pb2.py").read_text()
    services = (CLIENT / "inference_pb2_grpc.py").read_text()
    assert f"# Protobuf Python Version: {asked['protobuf']}\n" in messages
    assert f"GRPC_GENERATED_VERSION = '{asked['grpcio']}'" in services
    assert asked["protobuf"].startswith("6."), "kserve and tritonclient need protobuf below 7"


def test_proto_files_are_clean() -> None:
    """Rules and exceptions are in buf.yaml."""
    if (buf := shutil.which("buf")) is None:
        pytest.skip("buf is not installed: npm install -g @bufbuild/buf")
    done = subprocess.run([buf, "lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(PROTO.glob("*.proto")), ids=lambda path: path.stem)
def test_other_languages_get_a_package(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// "), "what the file is for"
    for option in ("go_package", "java_package"):
        assert re.search(rf'^option {option} = "[^"]+";$', text, re.MULTILINE), option
