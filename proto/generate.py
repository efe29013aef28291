"""Regenerate the committed stubs: `python proto/generate.py`. Needs grpcio-tools."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("inference", "observe", "admin", "replica")
WITH_SERVICES = ("inference", "observe", "admin")


def generate(out: Path) -> None:
    """Write the stubs of every .proto below `out` (the repository root for the committed ones)."""
    from grpc_tools import protoc

    for name in PROTOS:
        services = [f"--grpc_python_out={out}"] if name in WITH_SERVICES else []
        arguments = ["protoc", f"-I{ROOT}", f"--python_out={out}", f"--pyi_out={out}", *services]
        if protoc.main([*arguments, f"proto/{name}.proto"]) != 0:
            raise SystemExit(f"protoc failed on proto/{name}.proto")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print("generated", ", ".join(PROTOS))
