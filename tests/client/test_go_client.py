"""The Go example against the real program. Needs go, its protoc plugins and gRPC's packages, as in
Debian; without them it skips, and names what is missing."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import media_bytes as made
from tests.support.patience import patience
from tests.support.running import ROOT

SOURCE = ROOT / "clients" / "go" / "predict.go"
DEBIAN = Path("/usr/share/gocode")  # where its packages of Go sources are
# Debian's gRPC (1.33) encodes with an older protobuf than its plugin generates for; newer gRPC has
# this codec itself.
CODEC = """package main

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
)

type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v interface{}) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

func (codec) Unmarshal(data []byte, v interface{}) error {
	return proto.Unmarshal(data, v.(proto.Message))
}

func init() { encoding.RegisterCodec(codec{}) }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled with stubs generated from the contract."""
    for needed in ("go", "protoc-gen-go", "protoc-gen-go-grpc"):
        if shutil.which(needed) is None:
            pytest.skip(f"the Go example was not run: there is no {needed} on this machine")
    for needed in ("grpc", "protobuf"):
        if not (DEBIAN / "src/google.golang.org" / needed).exists():
            pytest.skip(f"the Go example was not run: apt-get install golang-google-{needed}-dev")
    work = tmp_path_factory.mktemp("go")
    (work / "src").mkdir()
    protoc = runpy.run_path(str(ROOT / "proto" / "generate.py"))["compile_with"]
    try:
        out = work / "src"
        protoc(f"--go_out={out}", f"--go-grpc_out={out}", "proto/inference.proto")
    except SystemExit as end:
        pytest.skip(f"the Go example was not run: {end}")
    (work / "src" / "example").mkdir()
    shutil.copy(SOURCE, work / "src" / "example")
    (work / "src" / "example" / "codec.go").write_text(CODEC)
    # Debian's packages are sources for a GOPATH; nothing is fetched.
    environment = {"GO111MODULE": "off", "GOPATH": f"{work}:{DEBIAN}", "GOFLAGS": ""}
    built = subprocess.run(
        ["go", "build", "-o", str(work / "predict"), "example"],
        env={**os.environ, "GOCACHE": str(ROOT / "build" / "go-cache"), **environment},
        capture_output=True,
        text=True,
        timeout=patience(600),
    )
    assert built.returncode == 0, built.stderr
    return work / "predict"


def asked(program: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=patience(120)
    )
    return done.returncode, done.stdout, done.stderr


def test_text_image_and_audio_are_answered(program: Path, tiny_server: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(made.image("JPEG"))
    (tmp_path / "hum.wav").write_bytes(made.sound())
    arguments = ["-server", tiny_server, "-text", "knocking"]
    arguments += ["-image", str(tmp_path / "photo.jpg"), "-audio", str(tmp_path / "hum.wav")]
    code, out, err = asked(program, *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found["label"] == max(found["scores"], key=found["scores"].get)
    assert sum(found["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert len(found["stamp"]) == 64 and found["stamp_name"] and found["parts_cut"] == 0


def test_its_exit_codes_are_those_of_the_command(
    program: Path, tiny_server: str, tmp_path: Path
) -> None:
    assert asked(program)[0] == 2
    (tmp_path / "empty.jpg").write_bytes(b"")
    code, _, err = asked(program, "-server", tiny_server, "-image", str(tmp_path / "empty.jpg"))
    assert code == 3 and "empty.jpg" in err
    code, _, _ = asked(program, "-server", "127.0.0.1:1", "-text", "hum")
    assert code == 4
