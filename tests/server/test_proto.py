"""The committed stubs are what the .proto files say, and `proto` stays a namespace directory."""

from __future__ import annotations

import filecmp
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"


def generated_names() -> list[str]:
    patterns = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*.binpb")
    return sorted(path.name for pattern in patterns for path in PROTO.glob(pattern))


def test_committed_stubs_are_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    generate = runpy.run_path(str(PROTO / "generate.py"))["generate"]
    generate(tmp_path)
    fresh = sorted(path.name for path in (tmp_path / "proto").iterdir())
    assert fresh == generated_names()
    _, different, missing = filecmp.cmpfiles(PROTO, tmp_path / "proto", fresh, shallow=False)
    assert (different, missing) == ([], []), "run `python proto/generate.py` and commit"


def test_proto_has_no_init_so_that_proto_plus_can_live_beside_it() -> None:
    assert not (PROTO / "__init__.py").exists()


def test_the_open_inference_protocol_has_no_module_of_ours() -> None:
    assert not list(PROTO.glob("open_inference_pb2*"))
