"""A loaded bundle that answers samples: prepare, collate, forward, finish.

The four stages are separate so that a server can overlap them: call `prepare` from any thread,
`collate` from one thread, `forward` from one thread. `predict` runs all four. This module does not
know queues or transports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines import collate as collation
from pipelines import features
from pipelines.batch import Batch
from pipelines.bundle import bounds
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.contents import Progress
from pipelines.bundle.speed import Speed
from pipelines.bundle.stamp import Stamp, running_libraries
from pipelines.bundle.tensors import read_tensors
from pipelines.errors import BadInput, BundleRefused
from pipelines.features import Feature, Projection
from pipelines.media.decode import DecodePart
from pipelines.media.limits import InputLimits
from pipelines.models import device as devices
from pipelines.models import heads
from pipelines.models.backbone import Backbone
from pipelines.models.families import family_of
from pipelines.models.generate import Writing
from pipelines.models.generation import Generation
from pipelines.postprocess import Answerer, ForwardResult
from pipelines.prepare import Label, Preparer, read_labels
from pipelines.types import Prediction, Prepared, Sample

EMBEDDED = Path(__file__).parent / "triage" / "bundle"
PROJECTION = "reference/embedding.safetensors"
# Rows that `predict` runs at once. On a CPU more rows bring no gain, and mixed rows need more
# padding.
PREDICT_ROWS = 16


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch on its way to the device; `ready` is the event of its copy, None on a CPU."""

    rows: tuple[Prepared, ...]
    batch: Batch
    ready: Any


def no_place(device: torch.device, dtype: torch.dtype) -> None:
    """The default for `placed`: the weights are not on a device yet."""


class Pipeline:
    """Built by `load`. Its settings never change; `reasons` gives the reason for each."""

    def __init__(
        self,
        bundle: Bundle,
        preparer: Preparer,
        backbone: Backbone,
        env: Mapping[str, str],
        reasons: Mapping[str, str],
    ) -> None:
        labels, self._temperature = read_labels(bundle.labels)
        names = tuple(label.name for label in labels)
        self.bundle = bundle
        self.backbone = backbone
        self.labels: tuple[Label, ...] = labels
        self.features: tuple[Feature, ...] = features.schema(names)
        self.env = dict(env)
        self.reasons = dict(reasons)
        self._preparer = preparer
        self._upload_stream = devices.UploadStream(backbone.device)
        self._answerer = Answerer(bundle.stamp.hex, names, _projection(bundle))

    @staticmethod
    def load(
        path: Path | str,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | str = "auto",
        allow_dirty: bool = False,
        progress: Progress | None = None,
    ) -> Pipeline:
        """Verifies the bundle and puts the model on a device; golden answers are not checked here.

        Raises BundleRefused; ValueError for an impossible device, dtype or thread count.
        """
        return Pipeline.of(Bundle.open(path, allow_dirty, progress), device, dtype, threads)

    @staticmethod
    def of(
        bundle: Bundle,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | str = "auto",
        placed: Callable[[torch.device, torch.dtype], Mapping[str, torch.Tensor] | None] = no_place,
    ) -> Pipeline:
        """Like `load`, for a bundle that is already open. `placed` returns its weights if they are
        on the device already, in the chosen format."""
        tensors = bundle.tensors()
        parameters = sum(tensor.numel() for tensor in tensors.values())
        chosen, why_device = devices.choose_device(device)
        count, why_threads = devices.choose_threads(threads, chosen)
        kind, why_dtype = devices.choose_dtype(dtype, chosen, parameters)
        devices.configure_process(chosen, kind, count)
        Speed.from_dict(bundle.speed)  # the probe uses it, but refuses it too late
        labels, _ = read_labels(bundle.labels)
        family = family_of(bundle.config)
        preparer = Preparer.of(bundle.preprocess, bundle.template, bundle.tokenizer, labels, family)
        bounds.model_config(bundle.config)
        with _refused_as("model/config.json"):
            backbone = family.load(bundle.config, placed(chosen, kind) or tensors, chosen, kind)
        _agree(preparer, backbone)
        env = devices.describe(chosen, kind, count) | running_libraries()
        reasons = {"device": why_device, "dtype": why_dtype, "threads": why_threads}
        return Pipeline(bundle, preparer, backbone, env, reasons | dict(backbone.reasons))

    @property
    def stamp(self) -> Stamp:
        return self.bundle.stamp

    @property
    def limits(self) -> InputLimits:
        return self._preparer.preprocessing.limits

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights on the device."""
        return self.backbone.weight_bytes

    def prepare(self, sample: Sample, decode_part: DecodePart | None = None) -> Prepared:
        """Decodes, preprocesses, tokenises, measures. Thread-safe. `decode_part` decodes elsewhere,
        for example in another process. Raises BadInput."""
        return self._preparer.prepare(sample, decode_part)

    def collate(self, rows: Sequence[Prepared]) -> Staged:
        """One batch of rows to classify or embed, in any mix, on its way to the device.

        Raises ValueError for no rows, or one whose task is to generate.
        """
        if not rows or any(row.task == "generate" for row in rows):
            raise ValueError(
                "a batch takes rows to classify or embed; use `start` for rows to generate"
            )
        return self._stage(rows)

    @torch.inference_mode()
    def forward(self, staged: Staged) -> ForwardResult:
        """The one forward. On a GPU it only queues the work, which includes the copy of the
        answers; `finish` waits for that copy."""
        scored = heads.run(self.backbone, self._arrived(staged))
        return ForwardResult.of(staged.rows, scored, self._temperature)

    def finish(self, result: ForwardResult) -> list[Prediction]:
        """Answers in the order of the batch's rows."""
        return self._answerer.predictions(result)

    def score(self, rows: Sequence[Prepared]) -> list[Prediction]:
        """The answers of rows to classify or embed, in one forward."""
        return self.finish(self.forward(self.collate(rows)))

    def batch_of(self, rows: Sequence[Prepared]) -> Batch:
        """The batch that `forward` or `start` would compute, on the device."""
        return self._arrived(self._stage(rows))

    def writing(self, most_bytes: float = math.inf) -> Writing:
        """An empty set of texts to generate together; see `start`. `most_bytes` bounds the memory
        of their keys and values."""
        text = self._preparer.text
        # A GPU computes the next step while the host reads the last; a CPU does one after the
        # other.
        behind = int(self.backbone.device.type == "cuda")
        return Writing(self.backbone, text.decode, text.eos_ids, behind, most_bytes=most_bytes)

    def start(self, writing: Writing, rows: Sequence[Prepared]) -> list[Generation]:
        """Begins to read the prompts of rows to generate. `writing.step()` continues to read them,
        and writes the next token of every live text; the caller may run other work between steps.

        Raises ValueError where `writing.takes` is false, NoRoom.
        """
        staged = self._stage(rows)
        return writing.start(self._arrived(staged), [row.max_new_tokens for row in rows])

    def written(self, row: Prepared, generation: Generation) -> Prediction:
        """The answer with the text generated so far."""
        return self._answerer.written(row, generation)

    def generate(
        self, sample: Sample, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """Yields one text piece by piece; calls `cancelled` before each token. Raises BadInput."""
        writing = self.writing()
        (text,) = self.start(writing, [self.prepare(sample)])
        while True:
            if piece := text.take():
                yield piece
            if text.finished or cancelled():
                return
            writing.step()

    def predict(self, samples: Sequence[Sample]) -> list[Prediction | BadInput]:
        """Answers in the order of the samples; a refused sample does not affect the others."""
        answers: list[Prediction | BadInput | None] = [None] * len(samples)
        rows: list[tuple[int, Prepared]] = []
        for place, sample in enumerate(samples):
            try:
                rows.append((place, self.prepare(sample)))
            except BadInput as error:
                answers[place] = error
        # Rows of similar length in one batch need the least padding.
        rows.sort(key=lambda entry: entry[1].tokens)
        scored = [entry for entry in rows if entry[1].task != "generate"]
        written = [entry for entry in rows if entry[1].task == "generate"]
        for entries, run in ((scored, self.score), (written, self._write)):
            for first in range(0, len(entries), PREDICT_ROWS):
                group = entries[first : first + PREDICT_ROWS]
                found = run([row for _, row in group])
                for (place, _), prediction in zip(group, found, strict=True):
                    answers[place] = prediction
        return [answer for answer in answers if answer is not None]

    def _write(self, rows: Sequence[Prepared]) -> list[Prediction]:
        writing = self.writing()
        texts = self.start(writing, rows)
        while writing.live:
            writing.step()
        return [self.written(row, text) for row, text in zip(rows, texts, strict=True)]

    def _arrived(self, staged: Staged) -> Batch:
        """The batch on the compute stream. Pixels were copied as levels, and become numbers
        here."""
        self._upload_stream.join(staged.batch, staged.ready)
        images = staged.batch.images
        if images is None or images.patches.dtype != torch.uint8:
            return staged.batch
        patches = self._preparer.normalised(images.patches)
        return replace(staged.batch, images=replace(images, patches=patches))

    def _stage(self, rows: Sequence[Prepared]) -> Staged:
        geometry = self.backbone.geometry
        batch = collation.collate(rows, self._preparer.verbalisers, geometry)
        return Staged(tuple(rows), *self._upload_stream.upload(batch))


@contextmanager
def _refused_as(file: str) -> Iterator[None]:
    """Raises BundleRefused("config") naming the file, for any error that a library raises about it:
    each library has its own. Errors about the machine, such as missing memory, pass through."""
    try:
        yield
    except (BundleRefused, OSError, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {str(error)[:300]}"
        if "not enough memory" in why or "CUDA" in why or "OutOfMemory" in why:
            raise
        raise BundleRefused("config", f"{file} describes no model: {why}") from error


def _agree(preparer: Preparer, backbone: Backbone) -> None:
    """Checks that template, preprocessing and model agree on tokens and shapes."""
    text, image, geometry = preparer.text, preparer.preprocessing.image, backbone.geometry
    pairs = (
        ("image token", text.image_id, geometry.image_token),
        ("audio token", text.audio_id, geometry.audio_token),
        ("merge size", image.merge_size, geometry.merge),
        ("patch values", image.patch_values, geometry.patch_values),
        ("mel bins", preparer.preprocessing.audio.n_mels, geometry.mel_bins),
    )
    for name, ours, models in pairs:
        if ours != models:
            raise BundleRefused("config", f"{name}: preprocessing has {ours}, the model {models}")


def _projection(bundle: Bundle) -> Projection | None:
    if PROJECTION not in bundle.files:
        return None
    tensors = read_tensors(bundle.files[PROJECTION])
    if set(tensors) != {"mean", "axes"}:
        raise BundleRefused("config", f"{PROJECTION} must hold `mean` and `axes`")
    return Projection(tensors["mean"].float().numpy(), tensors["axes"].float().numpy())
