"""One replica: the stamped pipeline on one device behind the front's socket.

    python -P server/child_process.py server.replica.main --fd N --bundle DIR ...

Started by the front, or forked by server/replica/fork_server.py, which has imported the libraries.
It imports pipelines late: the arguments are checked and the front is notified before importing
torch, which takes seconds.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from google.protobuf.message import DecodeError

from proto import inference_pb2, replica_pb2
from server import host
from server.replica import placement
from server.replica.batching import Budget, budget_for, swept
from server.replica.bundle_values import values_of
from server.replica.decoding.nursery import Nursery, NurseryLost
from server.replica.decoding.pool import DecodingCounts
from server.replica.fault_guard import Failed
from server.replica.load_limit import LoadLimit, load_limit
from server.replica.model import Lane, Ready, Rejected
from server.replica.shortage import short_of_memory
from server.replica.worker import Loaded, LoadRefused, Progress, WorkerSettings, serve
from server.request.by_name import filled
from server.request.modalities import MODALITIES, NAMES
from server.telemetry.outputs import outputs_of

if TYPE_CHECKING:
    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle.signature import TrustedKey
    from pipelines.models.generate import Generation
    from pipelines.pipeline import Pipeline
    from pipelines.postprocess import ForwardResult
    from pipelines.types import Modality, Part, PartUsed, Prediction, Prepared, Sample, Task
    from server.replica.decoding.parts import PartDecoders

LIGHT_EXAMPLE_BYTES = 2 << 20  # a larger one is heavy, whatever is in it: it is not parsed twice
MODULE = "server.replica.main"
ALONE = "started as a process of its own, which imports the libraries itself"
ENCODINGS = {inference_pb2.PcmFormat.S16LE: "s16le", inference_pb2.PcmFormat.F32LE: "f32le"}
FINISH_REASONS = {"end": "stop", "length": "length"}


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
    parser.add_argument("--require-signature", type=Path)
    parser.add_argument("--digests", type=Path)
    parser.add_argument("--skew-interval", type=float, default=60.0)
    parser.add_argument("--log-format", default="text")
    parser.add_argument("--log-level", default="info")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, process: str = ALONE) -> None:
    """Never returns, unless it only writes examples. `process` is how this process was made, for
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
    """The golden inputs of a bundle as examples of a request, for loads of realistic content; needs
    no torch. Raises BundleRefused."""
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
    """The libraries of this process. `cuda_initialised` is of this moment; `changed` is which of
    them is installed in another version than the one imported, or ""."""

    cuda_initialised: Callable[[], bool]
    changed: Callable[[], str]


def preload() -> Imported:
    """Import all that a replica imports, and compute nothing: no thread is started, no device is
    looked at, so that replicas can be forked."""
    import torch
    from PIL import Image

    from pipelines import pipeline  # noqa: F401 - imported for what it imports
    from pipelines.bundle import digests, golden, skew, stamp  # noqa: F401

    Image.init()
    libraries = stamp.running_libraries()
    stamp.running_code()  # compiles every source once, for the comparison with what is in memory

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
    """At least two: a part that takes long must not keep the row behind it waiting."""
    return max(2, asked or host.cores()[0] // replicas)


# ---- loading -------------------------------------------------------------------------------------


def load(arguments: argparse.Namespace, progress: Progress, process: str = ALONE) -> Loaded:
    """Raises LoadRefused for a bundle, device or setting that cannot be served."""
    progress("importing the libraries", 0.0)
    nursery = Nursery()
    nursery.start()  # it imports what decoding needs while this process imports torch
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
                bundle = _open(arguments, progress)
                watch = SkewWatch(bundle)
                _check_fit(device, sharing, arguments.dtype, bundle.tensors().values())
                limit.file = "model/config.json and weights/"
                progress("placing the weights", 0.8)
                pipeline = Pipeline.of(bundle, device, arguments.dtype, threads)
                count = decoders_for(arguments.decode_threads, arguments.replicas)
                decoders = _decoders(count, pipeline, nursery)
                model = PipelineModel(pipeline, decoders, arguments.probe_runs)
                limit.file = "golden/golden.json, as preprocess.json prepares it"
                progress("warming", 0.9)
                budget, why_budget = _warmed(model, device, arguments, progress)
    except BundleRefused as error:
        raise LoadRefused(error.check, error.message) from error
    except ValueError as error:
        raise LoadRefused("device", str(error)) from error
    text_bytes, why_texts = _text_bytes(device, sharing, arguments.replicas)
    model.set_aside(text_bytes)
    reasons = dict(pipeline.reasons) | {
        "device": f"{why_devices}; {why_here}",
        "threads": why_threads,
        "batch": why_budget,
        "decoding": f"{count} processes a replica: {decoders.pool.sandbox}",
        "process": process,
        "texts": why_texts,
        "memory": model.memory(),
    }
    hello = model.hello(device, reasons)
    figures = partial(_figures, device, decoders.pool.counts)
    return Loaded(model, hello, budget, device == "cpu", figures, watch)


def _decoders(count: int, pipeline: Pipeline, nursery: Nursery) -> PartDecoders:
    """Raises LoadRefused where no decoder can be started."""
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


@contextmanager
def memory_refused(limit: LoadLimit) -> Iterator[None]:
    """Raises LoadRefused("memory") where memory ran short under a limit. Without one it is the
    host's memory: the replica ends, and is started again."""
    try:
        yield
    except Exception as error:
        if limit.limit_bytes and (short_of_memory(error) or _no_room(error)):
            raise LoadRefused("memory", limit.message()) from error
        raise


def _no_room(error: Exception) -> bool:
    """Of a map of a file, or of a thread's stack."""
    no_map = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return no_map or "can't start new thread" in str(error)


def _warmed(
    model: PipelineModel, device: str, arguments: argparse.Namespace, progress: Progress
) -> tuple[Budget, str]:
    """(budget of a forward, reason): measured on a GPU unless it was given. The largest batch has
    been computed then, so its memory is no longer free.

    Raises LoadRefused where not even one row fits.
    """
    budget, why = budget_for(device, arguments.batch_rows, arguments.batch_cost)
    if device == "cpu" or arguments.batch_rows or arguments.batch_cost:
        model.warm(budget.rows)
        return budget, why
    model.warm(1)
    progress("measuring batches", 0.95)
    row_tokens = model.longest_warm
    try:
        budget, why = swept(model.measure, row_tokens, budget)
    except MemoryError as error:
        raise LoadRefused("memory", f"{error}; {model.memory()}") from error
    model.measure(max(1, min(budget.rows, budget.tokens // row_tokens)))
    return budget, why


def _open(arguments: argparse.Namespace, progress: Progress) -> Bundle:
    """Raises BundleRefused, LoadRefused."""
    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle.digests import DigestCache

    trusted = _trusted(arguments.require_signature)
    if arguments.digests is None:
        return Bundle.open(arguments.bundle, arguments.allow_dirty, progress, None, trusted)
    # Of N replicas that start together one hashes what is large, and the others find it done.
    with DigestCache.turn(arguments.digests, Path(arguments.bundle), progress) as cache:
        return Bundle.open(arguments.bundle, arguments.allow_dirty, progress, cache, trusted)


def _trusted(path: Path | None) -> tuple[TrustedKey, ...]:
    """Raises LoadRefused for keys that cannot be read: without them nothing may be served."""
    if path is None:
        return ()
    from pipelines.bundle.signature import read_trusted

    try:
        return read_trusted(path)
    except (OSError, ValueError) as error:
        raise LoadRefused(
            "signature", f"--require-signature: {error}; give a public key in PEM, or a directory"
        ) from error


def _check_fit(device: str, sharing: int, dtype: str, tensors: Any) -> None:
    if device == "cpu":
        return  # host memory was checked by the front, for all replicas together
    import torch

    from pipelines.models.device import run_bytes

    weights = run_bytes(dtype, torch.device(device), sum(tensor.numel() for tensor in tensors))
    total = torch.cuda.get_device_properties(device).total_memory
    reason = placement.misfit(weights, sharing, total)
    if reason:
        raise LoadRefused("memory", reason)


def _text_bytes(device: str, sharing: int, replicas: int) -> tuple[int, str]:
    """What is free now: the weights are there, and the largest batch has been computed."""
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


# ---- the pipeline as a model ---------------------------------------------------------------------


class PipelineModel:
    """The Model (server/replica/model.py) a pipeline makes."""

    def __init__(self, pipeline: Pipeline, decoders: PartDecoders, probe_runs: int) -> None:
        self._pipeline = pipeline
        self._decoders = decoders
        self._probe_runs = probe_runs
        self._most_text_bytes = 0
        self.set_aside(sys.maxsize)
        self._names = tuple(feature.name for feature in pipeline.features)
        self._stamp = pipeline.stamp.hex

    def enter_thread(self) -> None:
        from pipelines.models import device

        device.enter_thread(self._pipeline.backbone.device)

    def set_aside(self, text_bytes: int) -> None:
        """Bounds the memory of texts; none is being written."""
        self._most_text_bytes = text_bytes
        self._writing = self._pipeline.writing(text_bytes)

    def warm(self, rows: int) -> None:
        """Runs every mix alone, a full mixed batch and a text: no caller is the first."""
        from pipelines.bundle import golden_file

        samples = [case.sample for case in golden_file.read(self._pipeline.bundle)[0]]
        for sample in samples:
            self._pipeline.predict([sample])
        self._pipeline.predict((samples * rows)[:rows])
        text = replace(self._richest(), task="generate", max_new_tokens=2)
        for _ in self._pipeline.generate(text):
            pass

    @property
    def longest_warm(self) -> int:
        """Tokens of a row of `measure`."""
        return self._pipeline.prepare(self._richest()).tokens

    def measure(self, rows: int) -> float | None:
        """Seconds of a forward of so many rows of every modality, the shorter of two; None where
        memory ends."""
        import torch

        prepared = [self._pipeline.prepare(self._richest())] * rows
        took = []
        try:
            for _ in range(3):  # the first one allocates
                began = time.perf_counter()
                self._pipeline.forward(self._pipeline.collate(prepared)).wait()
                took.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        return min(took[1:])

    def memory(self) -> str:
        """What the weights take, and on a GPU the most that has been in use."""
        import torch

        backbone = self._pipeline.backbone
        kind = str(backbone.dtype).removeprefix("torch.")
        weights = f"weights {backbone.weight_bytes / placement.MIB:,.0f} MiB in {kind}"
        if backbone.device.type != "cuda":
            return weights
        peak = torch.cuda.max_memory_allocated(backbone.device)
        return f"{weights}, at most {peak / placement.MIB:,.0f} MiB with the largest warm batch"

    def _richest(self) -> Sample:
        from pipelines.bundle import golden_file

        samples = (case.sample for case in golden_file.read(self._pipeline.bundle)[0])
        return max(samples, key=lambda sample: len(sample.parts))

    def hello(self, device: str, reasons: dict[str, str]) -> replica_pb2.Hello:
        pipeline = self._pipeline
        hello = replica_pb2.Hello(
            stamp_hex=pipeline.stamp.hex,
            stamp_name=pipeline.stamp.name,
            dirty=pipeline.stamp.dirty,
            stamp_parts=dict(pipeline.stamp.parts),
            stamp_detail={**values_of(pipeline.bundle.path), **pipeline.stamp.detail},
            env=pipeline.env,
            reasons=reasons,
            labels=[label.name for label in pipeline.labels],
            embedding_dimensions=pipeline.backbone.width,
            card=pipeline.bundle.card,
            bundle_path=str(pipeline.bundle.path),
            signed_by=pipeline.bundle.signed_by,
            device=device,
            features=[filled(replica_pb2.FeatureSpec, one) for one in pipeline.features],
        )
        for name, value in limits_of(pipeline):
            hello.limits.add(name=name, value=value)
        return hello

    def lane(self, example: bytes) -> Lane:
        if len(example) > LIGHT_EXAMPLE_BYTES:
            return "heavy"
        try:
            return self._decoders.lane(sample_of(replica_pb2.Work(), example).parts)
        except Rejected:
            return "direct"  # to be refused

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        from pipelines.errors import BadInput

        sample = sample_of(work, example)
        try:
            with self._decoders.row(sample.parts) as decode_part:
                row = self._pipeline.prepare(sample, decode_part)
        except BadInput as error:
            if short_of_memory(error):
                raise  # not the input's fault: fault_guard answers
            raise Rejected(error.field, error.reason, error.message) from error
        return Ready(row, row.tokens, row.decode_ms, row.preprocess_ms, row.modalities)

    def forward(self, rows: Sequence[Prepared]) -> ForwardResult:
        return self._pipeline.forward(self._pipeline.collate(rows))

    def wait(self, found: ForwardResult) -> None:
        found.wait()

    def finish(self, found: ForwardResult) -> list[replica_pb2.Done]:
        return [self._done(prediction) for prediction in self._pipeline.finish(found)]

    def startable(self, rows: Sequence[Prepared]) -> int:
        count = len(rows)
        while count and not self._writing.takes(
            [row.tokens for row in rows[:count]], [row.max_new_tokens for row in rows[:count]]
        ):
            count -= 1
        return count

    def text_bytes(self) -> tuple[int, int]:
        return self._writing.cache_bytes, self._most_text_bytes

    def start(self, rows: Sequence[Prepared]) -> Sequence[Generation]:
        from pipelines.models.kv_cache import NoRoom

        try:
            return self._pipeline.start(self._writing, rows)
        except NoRoom as error:
            message = f"{error}; send a shorter prompt or a lower max_new_tokens"
            raise Failed(
                inference_pb2.Fault(
                    code="RESOURCE_EXHAUSTED", reason="TEXT_MEMORY", message=message
                )
            ) from error

    def step(self) -> None:
        self._writing.step()

    def end(self, row: Prepared, text: Generation) -> replica_pb2.Token:
        prediction = self._pipeline.written(row, text)
        return replica_pb2.Token(
            finish_reason=FINISH_REASONS.get(text.ending, text.ending),
            tokens=len(text.tokens),
            features=self._features(prediction),
            stamp_hex=self._stamp,
            prediction=inference_pb2.Prediction(**outputs_of(prediction)),
            parts_used=map(part_used_message, prediction.parts_used),
        )

    def probe(self, mixes: Sequence[str]) -> Iterator[replica_pb2.MixProbe]:
        from pipelines.bundle import golden, golden_file

        cases = golden_file.read(self._pipeline.bundle)[0]
        for mix in mixes or dict.fromkeys(case.mix for case in cases):
            (found,) = golden.probe(self._pipeline, (mix,), self._probe_runs)
            yield filled(replica_pb2.MixProbe, found)

    def broken_by(self, error: Exception) -> bool:
        """After a CUDA error other than lack of memory every later call fails or lies."""
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return False
        return "CUDA error" in str(error) or "cuDNN error" in str(error)

    def _done(self, prediction: Prediction) -> replica_pb2.Done:
        done = replica_pb2.Done(
            stamp_hex=self._stamp,
            features=self._features(prediction),
            parts_used=map(part_used_message, prediction.parts_used),
        )
        answer = done.prediction
        answer.MergeFrom(inference_pb2.Prediction(label=prediction.label, **outputs_of(prediction)))
        for score in prediction.scores:
            answer.scores.add(
                label=score.label, probability=score.probability, log_prob=score.log_prob
            )
        if prediction.embedding is not None:
            answer.embedding.values = prediction.embedding.astype("<f4").tobytes()
            answer.embedding.dimensions = len(prediction.embedding)
        return done

    def _features(self, prediction: Prediction) -> bytes:
        values = [prediction.features[name] for name in self._names]
        return np.array(values, dtype="<f4").tobytes()


def part_used_message(part: PartUsed) -> inference_pb2.PartUsed:
    return inference_pb2.PartUsed(**asdict(part) | {"modality": MODALITIES[part.modality]})


def limits_of(pipeline: Pipeline) -> Iterator[tuple[str, float]]:
    return ((name, float(value)) for name, value in asdict(pipeline.limits).items())


def sample_of(work: replica_pb2.Work, payload: bytes) -> Sample:
    """Raises Rejected for bytes that are not an Example."""
    from pipelines.types import Sample

    example = inference_pb2.Example()
    try:
        example.ParseFromString(payload)
    except DecodeError as error:
        raise Rejected("", "BAD_MESSAGE", f"the example cannot be read: {error}") from error
    return Sample(
        id=work.id,
        parts=tuple(part_of(part) for part in example.parts),
        task=cast("Task", work.task),
        labels=tuple(work.labels),
        want_embedding=work.want_embedding,
        max_new_tokens=work.max_new_tokens,
        refuse_truncation=work.refuse_truncation,
    )


def part_of(part: inference_pb2.Part) -> Part:
    from pipelines.types import Part, PcmFormat

    pcm = None
    if part.HasField("pcm"):
        encoding = ENCODINGS.get(part.pcm.encoding, "")
        pcm = PcmFormat(part.pcm.sample_rate_hz, part.pcm.channels, encoding)
    if part.WhichOneof("source") == "text":
        return Part("text", part.text, part.mime_type, pcm, part.id)
    return Part(
        cast("Modality | None", NAMES.get(part.modality)), part.data, part.mime_type, pcm, part.id
    )


if __name__ == "__main__":
    main()
