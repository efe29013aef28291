"""A checkpoint of gigabytes: the cost of building a bundle from it, and how often a start reads it.

python -m benchmarks.checkpoint [--gb 2.4] [--replicas 2] [--folder DIR]

Writes a random Qwen2.5-Omni thinker in four shards (float32, most of it vocabulary, so that the
forwards of the golden answers stay short), builds a bundle of it as `pipelines build` does, starts
servers on that from a cold and from a warm page cache, and removes everything.

build   seconds, and the most private and file-backed memory while the weights stream through, and
        after that, while the finished bundle is loaded and asked for its golden answers
start   seconds from the command to ready; bytes the replicas had fetched from the disk, together,
        as a multiple of the bundle's weights; memory of each (PSS)
look    what a replica's look at itself costs every minute, and a look at every byte
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serve import status
from benchmarks.support.sampler import Sampler
from pipelines.bundle import tensors
from pipelines.models.qwen import thinker
from tests.support import tinybundle
from tests.support.running import ROOT, program

HIDDEN = 1024
LAYERS = 4
INDEX = "model.safetensors.index.json"
POLL_S = 0.02
READY_WITHIN_S = 1200.0  # seconds; gigabytes from a cold disk, on a busy machine
Shapes = dict[str, tuple[int, ...]]


def config(vocabulary: int) -> dict[str, Any]:
    found = tinybundle.thinker_config()
    found["text_config"] |= {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]},
    }
    found["vision_config"]["out_hidden_size"] = HIDDEN
    found["audio_config"]["output_dim"] = HIDDEN
    found["tie_word_embeddings"] = False
    return found


def shapes_of(values: dict[str, Any]) -> Shapes:
    with torch.device("meta"):
        model = thinker.fresh(thinker.read_config(values), 0)
    return {name: tuple(tensor.shape) for name, tensor in thinker.tensors_of(model).items()}


def write_checkpoint(folder: Path, gigabytes: float) -> None:
    """Writes four shards: the embedding, the head, and the layers in two of them."""
    folder.mkdir()
    # Two matrices of vocabulary x hidden x 4 bytes are nearly all of the size.
    values = config(int(gigabytes * 1e9 / (2 * 4 * HIDDEN)))
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_bytes(tinybundle.tokenizer_json())
    shapes = shapes_of(values)
    large = [name for name, shape in shapes.items() if values["text_config"]["vocab_size"] in shape]
    rest = sorted(shapes.keys() - set(large))
    groups = [[name] for name in large] + [rest[::2], rest[1::2]]
    places: dict[str, str] = {}
    r = np.random.default_rng(1)
    for number, names in enumerate(groups):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        write_shard(folder / file, {name: shapes[name] for name in names}, r)
        places |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_shard(path: Path, shapes: Shapes, r: np.random.Generator) -> None:
    with path.open("wb") as file:
        file.write(tensors.header_bytes((n, torch.float32, s) for n, s in shapes.items()))
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                count = min(left, 1 << 22)
                file.write((0.02 * r.standard_normal(count, dtype=np.float32)).tobytes())
                left -= count
        file.flush()
        os.fsync(file.fileno())


# ---- measuring -----------------------------------------------------------------------------------


def proc(pid: int, name: str) -> dict[str, int]:
    """Numbers of a /proc/PID file by name, in its own units; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines if ":" in line)
    return {key: int(rest.split()[0]) for key, rest in pairs if rest.split()[:1] and
            rest.split()[0].isdigit()}  # fmt: skip


def evict(bundle: Path) -> None:
    """Drop the bundle from the page cache, as after a boot."""
    for path in bundle.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def build(source: Path, out: Path) -> dict[str, Any]:
    labels = source / "labels.txt"
    labels.write_text("run on\nwatch\nstop line\n")
    command = [sys.executable, "-m", "pipelines.main", "build", "--from", str(source)]
    command += ["--labels", str(labels), "--name", "large-1", "--out", str(out)]
    evict(source)

    def phase() -> str:
        written = out.exists() or any(out.parent.glob(f".{out.name}.partial-*/manifest.json"))
        return "answering" if written else "streaming"

    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    with Sampler(lambda: (phase(), proc(process.pid, "status")), POLL_S) as memory:
        code = process.wait()
    assert code == 0
    most: dict[str, dict[str, float]] = {}
    for name, found in memory.seen:
        known = most.setdefault(name, {})
        for key in ("RssAnon", "RssFile"):
            known[key] = max(known.get(key, 0.0), found.get(key, 0) / 1024)
    return {"seconds": time.perf_counter() - began, "most MiB": most}


def start(bundle: Path, data: Path, replicas: int, *flags: str) -> dict[str, Any]:
    """One start of a server, and what its replicas have read by then."""
    began = time.perf_counter()
    arguments = ("--bundle", str(bundle), "--data", str(data), "--warm-pool", str(replicas), *flags)
    with program(*arguments, ready_within_s=READY_WITHIN_S) as server:
        seconds = time.perf_counter() - began
        snapshot = status(server.address)
        size = sum(path.stat().st_size for path in (bundle / "weights").iterdir())
        pids = [replica["pid"] for replica in snapshot["replicas"]]
        fetched = [proc(pid, "io").get("read_bytes", 0) / size for pid in pids]
        pss = [proc(pid, "smaps_rollup").get("Pss", 0) / 1024 for pid in pids]
        anonymous = [proc(pid, "status").get("RssAnon", 0) / 1024 for pid in pids]
        verified = status(server.address, "--verify")
        checks = [replica["self_check"] for replica in snapshot["replicas"]]
        every = [replica["self_check"] for replica in verified["replicas"]]
    return {
        "seconds": seconds,
        "load s": [replica["load_s"] for replica in snapshot["replicas"]],
        "fetched / weights": fetched,
        "PSS MiB": pss,
        "private MiB": anonymous,
        "look ms": [check["took_ms"] for check in checks],
        "every byte ms": [check["took_ms"] for check in every],
    }


@contextmanager
def place(folder: Path | None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="trefoil-checkpoint-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--gb", type=float, default=2.4, help="weights in all (2.4)")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for three times that")
    arguments = parser.parse_args()
    with place(arguments.folder) as folder:
        write_checkpoint(folder / "source", arguments.gb)
        bundle = folder / "bundle"
        report("build, cold", build(folder / "source", bundle))
        shutil.rmtree(folder / "source")
        for name, cold, flags in (
            ("start, cold, nothing remembered", True, ("--verify",)),
            ("start, warm, --verify", False, ("--verify",)),
            ("start, warm, digests remembered", False, ()),
            ("start, cold, digests remembered", True, ()),
        ):
            if cold:
                evict(bundle)
            report(name, start(bundle, folder / "data", arguments.replicas, *flags))


def report(title: str, found: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:18} {_rounded(value)}", flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
