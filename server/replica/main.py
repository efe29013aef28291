"""One replica: the stamped pipeline on one device, connected to the front by a socket.

    python -P server/child_process.py server.replica.main --fd N --bundle DIR ...

Started by the front, or forked by server/replica/fork_server.py, which has imported the libraries.
It imports pipelines late: the arguments are checked and the front is notified before importing
torch, which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proto import inference_pb2
from server import host
from server.replica import placement
from server.replica.batching import Budget, budget_for, fitting, swept
from server.replica.decoding.nursery import Nursery, NurseryLost
from server.replica.decoding.pool import DecodingCounts
from server.replica.load_limit import load_limit, memory_refused
from server.replica.pipeline_model import PipelineModel
from server.replica.weights.mapped import SharedWeights, shared_weights
from server.replica.worker import Loaded, LoadRefused, Progress, WorkerSettings, serve
from server.request.modalities import MODALITIES

if TYPE_CHECKING:
    import torch

    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle.signature import TrustedKey
    from pipelines.pipeline import Pipeline
    from server.replica.decoding.parts import PartDecoders

MODULE = "server.replica.main"
ALONE = "started as a process of its own, which imports the libraries itself"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="server.replica.main")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--golden-examples", action="store_true", help="write them to FD, and end")
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--decode-threads", type=int, default=0)
    parser.add_argument("--batch-rows", type=int, default=0)
    parser.add_argument("--batch-cost", type=int, default=0)
    parser.add_argument("--probe-runs", type=int, default=3)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--load-memory-mb", type=int, default=0)
    parser.add_argument("--allow-dirty", action="store_true")
    parser.add_argument("--no-cuda-graphs", action="store_true")
    parser.add_argument("--weights", type=Path, help="socket of the front to ask for them")
    parser.add_argument("--require-signature", type=Path)
    parser.add_argument("--digests", type=Path)
    parser.add_argument("--skew-interval", type=float, default=60.0)
    parser.add_argument("--log-format", default="text")
    parser.add_argument("--log-level", default="info")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, process: str = ALONE) -> None:
    """Never returns, unless it only writes examples. `process` is how this process was started, for
    `server status`."""
    arguments = parse(argv)
    if arguments.golden_examples:
        with open(arguments.fd, "wb") as out:
            out.write(golden_examples(arguments.bundle).SerializeToString())
        return
    decoders = decoders_for(arguments.decode_threads, arguments.replicas)
    settings = WorkerSettings(
        arguments.fd,
        arguments.index,
        decoders,
        arguments.generations,
        arguments.skew_interval,
        arguments.log_format,
        arguments.log_level,
    )
    serve(settings, lambda progress: load(arguments, progress, process))


def golden_examples(bundle: str) -> inference_pb2.PredictRequest:
    """The golden inputs of a bundle as examples of a request, for loads with realistic content;
    torch is not needed. Raises BundleRefused."""
    from pipelines.bundle import golden_file
    from pipelines.bundle.contents import read_contents

    request = inference_pb2.PredictRequest()
    for case in golden_file.read(read_contents(bundle))[0]:
        example = request.examples.add()
        for part in case.sample.parts:
            if isinstance(part.data, str):
                example.parts.add(text=part.data)
            elif part.kind is not None:
                example.parts.add(data=part.data, modality=MODALITIES[part.kind])
    return request


# ---- before a fork -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    """The libraries of this process. `cuda_initialised` is the state at this moment; `changed`
    names a library whose installed version is no longer the imported one, or ""."""

    cuda_initialised: Callable[[], bool]
    changed: Callable[[], str]


def preload() -> Imported:
    """Import everything that a replica imports, and compute nothing: no thread is started and no
    device is used, so that replicas can be forked."""
    import torch
    from PIL import Image

    from pipelines import pipeline  # noqa: F401 - imported for what it imports
    from pipelines.bundle import digests, golden, skew, stamp  # noqa: F401

    Image.init()
    libraries = stamp.running_libraries()
    stamp.running_code()  # compiles every source once, for the comparison with the code in memory

    def changed() -> str:
        installed = stamp.installed_libraries()
        return next(
            (
                f"{name} {libraries[name]} is imported, {version} is installed"
                for name, version in installed.items()
                if libraries[name] != version
            ),
            "",
        )

    return Imported(torch.cuda.is_initialized, changed)


def decoders_for(asked: int, replicas: int) -> int:
    """The number of decoders, at least two: a slow part must not delay the row after it."""
    return max(2, asked or host.cores()[0] // replicas)


# ---- loading -------------------------------------------------------------------------------------


def load(arguments: argparse.Namespace, progress: Progress, process: str = ALONE) -> Loaded:
    """Load the bundle. Raises LoadRefused for a bundle, device or setting that cannot be served."""
    progress("importing the libraries", 0.0)
    nursery = Nursery()
    nursery.start()  # it imports the decoding libraries while this process imports torch
    import torch

    from pipelines.bundle.skew import SkewWatch
    from pipelines.errors import BundleRefused
    from pipelines.pipeline import Pipeline

    try:
        names, why_devices = placement.devices(arguments.device, torch.cuda.device_count())
        device, sharing, why_here = placement.place(names, arguments.index, arguments.replicas)
        threads, why_threads = _threads(arguments, device)
        with load_limit(Path(arguments.bundle), device, arguments.load_memory_mb) as limit:
            with memory_refused(limit):
                limit.file = "the files of the bundle"
                bundle = open_bundle(arguments, progress)
                watch = SkewWatch(bundle)
                _check_fit(device, sharing, arguments, bundle.tensors().values())
                limit.file = "model/config.json and weights/"
                progress("placing the weights", 0.8)
                placed = _Placed(arguments.weights, bundle.stamp.hex)
                pipeline = Pipeline.of(bundle, device, arguments.dtype, threads, placed)
                count = decoders_for(arguments.decode_threads, arguments.replicas)
                decoders = _decoders(count, pipeline, nursery)
                shared = placed.found.bytes
                model = PipelineModel(pipeline, decoders, arguments.probe_runs, shared)
                limit.file = "golden/golden.json, as preprocess.json prepares it"
                progress("warming", 0.9)
                budget, why_budget = _warmed(model, device, arguments, progress)
    except BundleRefused as error:
        raise LoadRefused(error.check, error.message) from error
    except ValueError as error:
        raise LoadRefused("device", str(error)) from error
    text_bytes, why_texts = _text_bytes(device, sharing, arguments.replicas)
    model.set_aside(text_bytes)
    progress("recording", 0.97)
    why_graphs = _recorded(model, pipeline, arguments)
    reasons = dict(pipeline.reasons) | {
        "device": f"{why_devices}; {why_here}",
        "threads": why_threads,
        "batch": why_budget,
        "decoding": f"{count} processes a replica: {decoders.pool.sandbox}",
        "process": process,
        "texts": why_texts,
        "graphs": why_graphs,
        "weights": placed.found.reason,
        "memory": model.memory(),
    }
    hello = model.hello(device, reasons)
    figures = partial(_figures, device, decoders.pool.counts)
    return Loaded(model, hello, budget, device == "cpu", figures, watch)


def _decoders(count: int, pipeline: Pipeline, nursery: Nursery) -> PartDecoders:
    """Start the decoders. Raises LoadRefused if none can be started."""
    from server.replica.decoding.parts import PartDecoders

    try:
        decoders = PartDecoders(count, pipeline.limits, nursery)
        decoders.pool.start()
    except (OSError, NurseryLost) as error:
        raise LoadRefused("start", f"the decoders cannot be started: {error}") from error
    return decoders


def _figures(device: str, counts: DecodingCounts) -> dict[str, Any]:
    decoding = {"decoder_restarts": counts.restarts, "decoder_deadlines": counts.deadlines}
    return device_memory(device) | decoding


def _warmed(
    model: PipelineModel, device: str, arguments: argparse.Namespace, progress: Progress
) -> tuple[Budget, str]:
    """(budget of a forward, reason): measured on a GPU unless it was given. The largest batch has
    then been computed, so its memory is allocated.

    Raises LoadRefused if not even one row fits.
    """
    budget, why = budget_for(device, arguments.batch_rows, arguments.batch_cost)
    if device == "cpu":
        model.warm(budget.rows)
        return budget, why
    model.warm(1)
    progress("measuring batches", 0.95)
    row_tokens = model.longest_warm
    try:
        if not (arguments.batch_rows or arguments.batch_cost):
            budget, why = swept(model.measure, row_tokens, budget)
        return fitting(model.measure, row_tokens, budget, why)
    except MemoryError as error:
        raise LoadRefused("memory", f"{error}; {model.memory()}") from error


def _recorded(model: PipelineModel, pipeline: Pipeline, arguments: argparse.Namespace) -> str:
    """Record the small forwards where that saves launches; returns what was done, and why."""
    from pipelines.models.graphs import choose_capture

    asked = not arguments.no_cuda_graphs
    capture, why = choose_capture(pipeline.backbone.device, asked)
    return why if capture is None else f"{why}: {model.record(capture, arguments.generations)}"


class _Placed:
    """The weights, if a holder has them on the device; `found` is the result of asking for them."""

    def __init__(self, path: Path | None, stamp: str) -> None:
        self._path = path
        self._stamp = stamp
        self.found = SharedWeights(None, 0, "")

    def __call__(self, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
        self.found = shared_weights(self._path, device, dtype, self._stamp)
        return self.found.tensors


def open_bundle(arguments: argparse.Namespace, progress: Progress) -> Bundle:
    """Open the bundle. Raises BundleRefused, LoadRefused."""
    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle.digests import DigestCache

    trusted = _trusted(arguments.require_signature)
    if arguments.digests is None:
        return Bundle.open(arguments.bundle, arguments.allow_dirty, progress, None, trusted)
    # When N replicas start together, one hashes the large files, and the others find the digests.
    with DigestCache.turn(arguments.digests, Path(arguments.bundle), progress) as cache:
        return Bundle.open(arguments.bundle, arguments.allow_dirty, progress, cache, trusted)


def _trusted(path: Path | None) -> tuple[TrustedKey, ...]:
    """The trusted keys. Raises LoadRefused for keys that cannot be read: without them nothing may
    be served."""
    if path is None:
        return ()
    from pipelines.bundle.signature import read_trusted

    try:
        return read_trusted(path)
    except (OSError, ValueError) as error:
        raise LoadRefused(
            "signature", f"--require-signature: {error}; give a public key in PEM, or a directory"
        ) from error


def _check_fit(device: str, sharing: int, arguments: argparse.Namespace, tensors: Any) -> None:
    """Check that the pool fits on an empty device; the front has compared it with the free
    memory."""
    if device == "cpu":
        return  # the front has checked host memory, for all replicas together
    import torch

    parameters = sum(tensor.numel() for tensor in tensors)
    weights = placement.run_bytes(arguments.dtype, True, parameters)
    total = torch.cuda.get_device_properties(device).total_memory
    reason = placement.misfit(weights, sharing, total, arguments.weights is not None, device)
    if reason:
        raise LoadRefused("memory", reason)


def _text_bytes(device: str, sharing: int, replicas: int) -> tuple[int, str]:
    """The memory for texts, from what is free now: the weights are loaded, and the largest batch
    has been computed."""
    if device == "cpu":
        return placement.text_bytes(host.available_bytes()[0], replicas, "of host memory")
    import torch

    return placement.text_bytes(torch.cuda.mem_get_info(device)[0], sharing, f"on {device}")


def _threads(arguments: argparse.Namespace, device: str) -> tuple[int | str, str]:
    if device != "cpu" and not arguments.threads:
        return "auto", "the GPU computes; threads only resize pictures and the like"
    return placement.threads_for(arguments.threads, arguments.replicas, host.cores())


def device_memory(device: str) -> dict[str, Any]:
    if device == "cpu":
        return {}
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return {
        "device_memory_bytes": total - free,
        "device_memory_total_bytes": total,
        "device_name": torch.cuda.get_device_name(device),
    }


if __name__ == "__main__":
    main()
