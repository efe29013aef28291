"""The committed stubs are what the .proto files say, and `proto` stays a namespace directory."""

from __future__ import annotations

import filecmp
import os
import runpy
import subprocess
import sys
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
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    out = tmp_path_factory.mktemp("stubs")
    runpy.run_path(str(PROTO / "generate.py"))["generate"](out)
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
