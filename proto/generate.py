"""Regenerate the committed stubs: `python proto/generate.py`. Needs grpcio-tools."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("inference", "observe", "admin", "replica")
WITH_SERVICES = ("inference", "observe", "admin")
# Read at run time into a descriptor pool of its own (server/api/open_inference_messages.py), so no
# Python module.
DESCRIPTORS_ONLY = ("open_inference",)


def generate(out: Path) -> None:
    """Write the stubs of every .proto below `out` (the repository root for the committed ones)."""
    for name in PROTOS:
        services = [f"--grpc_python_out={out}"] if name in WITH_SERVICES else []
        _protoc(name, f"--python_out={out}", f"--pyi_out={out}", *services)
    (out / "proto").mkdir(exist_ok=True)
    for name in DESCRIPTORS_ONLY:
        _protoc(name, f"--descriptor_set_out={out / 'proto' / name}.binpb")


def _protoc(name: str, *outputs: str) -> None:
    from grpc_tools import protoc

    if protoc.main(["protoc", f"-I{ROOT}", *outputs, f"proto/{name}.proto"]) != 0:
        raise SystemExit(f"protoc failed on proto/{name}.proto")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print("generated", ", ".join(PROTOS + DESCRIPTORS_ONLY))
