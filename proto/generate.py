"""Regenerate the committed stubs: `python proto/generate.py`. Installs its compiler into build/."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Old on purpose. Stubs need protobuf and gRPC at least as new as their compiler's, and protobuf at
# most one major version newer. Those of 6.31 go with 6.31 to 7.x, so the client installs beside
# what needs 6.x, such as kserve. clients/python/pyproject.toml has the same floors.
COMPILER = "grpcio-tools==1.73.1"
COMPILER_FOLDER = ROOT / "build" / COMPILER.replace("==", "-")
PROTOS = ("inference", "observe", "admin", "replica")
WITH_SERVICES = ("inference", "observe", "admin")
# Read at run time into a descriptor pool of its own (server/api/open_inference_messages.py), so no
# Python module.
DESCRIPTORS_ONLY = ("open_inference",)
# The client is a distribution of its own and must not install a top-level `proto`: it has a copy of
# these stubs under its own name. Their descriptors are the same bytes under the same file name, so
# a process that imports both copies has one set of message classes.
CLIENT_PROTOS = ("inference",)
CLIENT_FOLDER = Path("clients/python/trefoil/_proto")
CLIENT_PACKAGE = "trefoil._proto"


def generate(out: Path) -> None:
    """Write the stubs of every .proto below `out` (the repository root for the committed ones)."""
    for name in PROTOS:
        _stubs(name, out)
    (out / "proto").mkdir(exist_ok=True)
    for name in DESCRIPTORS_ONLY:
        _protoc(name, f"--descriptor_set_out={out / 'proto' / name}.binpb")
    (out / CLIENT_FOLDER).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in CLIENT_PROTOS:
            _stubs(name, Path(folder))
            for path in Path(folder, "proto").glob(f"{name}_pb2*"):
                (out / CLIENT_FOLDER / path.name).write_text(_for_client(path.read_text()))


def _stubs(name: str, out: Path) -> None:
    services = [f"--grpc_python_out={out}"] if name in WITH_SERVICES else []
    _protoc(name, f"--python_out={out}", f"--pyi_out={out}", *services)


def _for_client(source: str) -> str:
    """The module under the client's package: what it imports and what its classes are named after.

    The descriptor and the paths of the methods stay as they are.
    """
    for name in PROTOS:
        source = source.replace(
            f"from proto import {name}_pb2", f"from {CLIENT_PACKAGE} import {name}_pb2"
        )
        source = source.replace(f"'proto.{name}_pb2'", f"'{CLIENT_PACKAGE}.{name}_pb2'")
    return source


def compile_with(*arguments: str) -> None:
    """Runs protoc, installed once into a folder of its own: its protobuf is older than ours."""
    if not COMPILER_FOLDER.exists():
        _install()
    environment = {**os.environ, "PYTHONPATH": str(COMPILER_FOLDER)}
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{ROOT}", *arguments]
    if subprocess.run(command, env=environment).returncode != 0:
        raise SystemExit(f"protoc failed: {' '.join(arguments)}")


def _install() -> None:
    COMPILER_FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=COMPILER_FOLDER.parent) as folder:
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--target")
        install = [sys.executable, "-m", "pip", "install", *options, f"{folder}/tools", COMPILER]
        if subprocess.run(install).returncode != 0:
            raise SystemExit(f"cannot install {COMPILER}")
        Path(folder, "tools").rename(COMPILER_FOLDER)


def _protoc(name: str, *outputs: str) -> None:
    compile_with(*outputs, f"proto/{name}.proto")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print("generated", ", ".join(PROTOS + DESCRIPTORS_ONLY))
