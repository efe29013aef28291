"""The fuzz targets: each takes seeds and a function that may raise only its own refusals.

A target is built once (`of`), then called with one mutated input after another. Any exception
besides a refusal is a fault, and so is a refusal that is too long to read.
"""

from __future__ import annotations

import json
import random
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import media_seeds
from tests.fuzz.mutation import mutated

LONGEST_REFUSAL = 3_000
Once = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """`check` raises what is a fault; `texts` are words that a line of text is made of."""

    seeds: Sequence[bytes]
    check: Once
    texts: Sequence[str] = ()

    def input(self, rng: random.Random) -> bytes:
        if self.texts and rng.random() < 0.5:
            pieces = [rng.choice(self.texts) for _ in range(rng.choice((1, 2, 3, 8)))]
            line = rng.choice(("", " ", " ")).join(pieces).encode()
            return line if rng.random() < 0.5 else mutated(rng, line, self.seeds)
        return mutated(rng, rng.choice(self.seeds), self.seeds)


def _refused(error: Exception) -> None:
    if len(str(error)) > LONGEST_REFUSAL:
        raise AssertionError(f"a refusal of {len(str(error))} characters: {str(error)[:200]}")


# ---- decoders ------------------------------------------------------------------------------------


def decoders() -> Target:
    from pipelines.errors import BadInput
    from pipelines.media.decode import InputLimits, decode
    from pipelines.types import Part

    limits = InputLimits(max_image_pixels=2_000_000, max_audio_s=10.0, max_audio_values=2_000_000)

    def check(data: bytes) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decode(Part(None, data), "parts[0]", limits)
        except BadInput as error:
            _refused(error)

    texts = ["naïve \u0301\u0300 text".encode(), b"\xff\xfeh\0i\0"]
    return Target([*(seed.data for seed in media_seeds.seeds()), *texts], check)


# ---- messages of callers -------------------------------------------------------------------------


def _validator() -> Any:
    from server.config import ServerConfig
    from server.request.uploads import UploadLimits, UploadStore
    from server.request.validation import Validator

    return Validator(ServerConfig(), UploadStore(UploadLimits()))


def _caller() -> Any:
    from server.request.caller import Caller

    return Caller("ipv4:10.0.0.7:1", "10.0.0.7", "someone", "", None)


def lazy_parse() -> Target:
    from proto import inference_pb2 as pb
    from server.request.lazy_parse import request_id_of
    from server.request.status import Refused, trailers

    validator, caller = _validator(), _caller()
    example = pb.Example(slices={"site": "b"})
    example.parts.add(text="hum", id="a")
    example.parts.add(data=b"\xff\xd8\xff\xe0pic", modality=pb.IMAGE, mime_type="image/jpeg")
    pcm = pb.PcmFormat(sample_rate_hz=8000, channels=2, encoding=pb.PcmFormat.F32LE)
    example.parts.add(data=bytes(16), pcm=pcm)
    example.parts.add(upload_id="u-1")
    predict = pb.PredictRequest(
        request_id="r", examples=[example] * 2, labels=["a", "b"], top_k=2, session_id="s"
    )
    generate = pb.GenerateRequest(request_id="g", example=example, max_new_tokens=5)
    feedback = pb.FeedbackRequest()

    def check(data: bytes) -> None:
        for parse in (validator.predict, validator.generate):
            try:
                call = parse(data, caller)
                for index, row in enumerate(call.rows):
                    validator.work(row, f"examples[{index}]", call.terms)
            except Refused as error:
                trailers(error.faults, "")
                _refused(error)
        request_id_of(data)

    made = [m.SerializeToString() for m in (predict, generate, feedback)]
    return Target([*made, example.SerializeToString()], check)


def open_inference() -> Target:
    from server.api import open_inference_messages as messages
    from server.api.open_inference import _hurried, _native
    from server.api.open_inference_tensors import check_output, examples_of
    from server.request.lazy_parse import message_of
    from server.request.status import Refused

    validator, caller = _validator(), _caller()

    def request(raw: bool) -> bytes:
        found = messages.ModelInferRequest(model_name="triage", id="7")
        for name, content in (("text", b"hum"), ("image", b"\xff\xd8\xff\xe0")):
            one = messages.ModelInferRequest.InferInputTensor(
                name=name, datatype="BYTES", shape=[1, 1]
            )
            if raw:
                found.raw_input_contents.append(len(content).to_bytes(4, "little") + content)
            else:
                one.contents.bytes_contents.append(content)
            found.inputs.append(one)
        found.outputs.add(name="scores").parameters["classification"].int64_param = 3
        found.parameters["labels"].string_param = json.dumps(["a", "b"])
        found.parameters["sequence_id"].int64_param = 7
        found.parameters["timeout"].int64_param = 1_000_000
        found.parameters["priority"].uint64_param = 2
        return bytes(found.SerializeToString())

    def check(data: bytes) -> None:
        try:
            found = message_of(messages.ModelInferRequest, data)
            examples, _ = examples_of(found)
            for output in found.outputs:
                check_output(output)
            native = _native(found, examples, want_embedding=True)
            call = validator.predict(native.SerializeToString(), _hurried(caller, found))
            for row in call.rows:
                validator.work(row, "examples[0]", call.terms)
        except Refused as error:
            _refused(error)

    return Target([request(True), request(False)], check)


# ---- bundles -------------------------------------------------------------------------------------


def bundle_files() -> Target:
    """Every file of a bundle by itself, as its own reader takes it: the hash over it is for a
    bundle that was changed, and these are bundles that were made so."""
    from pipelines.bundle import bounds, manifest
    from pipelines.bundle.files import File, FileIdentity
    from pipelines.bundle.formats import check_format, parse_json
    from pipelines.bundle.speed import Speed
    from pipelines.bundle.tensors import read_tensors, refuse_nonfinite, to_bytes
    from pipelines.errors import BundleRefused
    from pipelines.models.tokens import Template
    from pipelines.prepare import Preprocessing, read_labels
    from server.deploy.bundle_survey import SurveyRefused, read_manifest

    folder = Path(__file__).resolve().parents[2] / "pipelines" / "triage" / "bundle"
    names = (
        *("manifest.json", "preprocess.json", "labels.json", "speed.json", "template.json"),
        *("model/config.json", "golden/golden.json", "objective.json"),
    )
    import torch

    weights = to_bytes({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)})
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def readers(data: bytes) -> list[Callable[[], object]]:
        def opened(path: str) -> File:
            return File(path, FileIdentity(0, 0, len(data), 0, 0), bytearray(data), "")

        def surveyed() -> object:
            (scratch / "manifest.json").write_bytes(data)
            return read_manifest(scratch)

        return [
            lambda: manifest.read(data),
            surveyed,
            lambda: check_format(opened("labels.json")),
            lambda: check_format(opened("weights/model.safetensors")),
            lambda: refuse_nonfinite(read_tensors(opened("weights/model.safetensors"))),
            lambda: Preprocessing.from_dict(parse_json("preprocess.json", data)),
            lambda: read_labels(parse_json("labels.json", data)),
            lambda: Speed.from_dict(parse_json("speed.json", data)),
            lambda: Template.from_dict(parse_json("template.json", data)),
            lambda: bounds.model_config(parse_json("model/config.json", data)),
        ]

    def check(data: bytes) -> None:
        for read in readers(data):
            try:
                read()
            except (BundleRefused, SurveyRefused) as error:
                _refused(error)
            except ValueError as error:
                if read.__name__ != "surveyed":
                    raise
                _refused(error)

    return Target([*((folder / name).read_bytes() for name in names), weights], check)


def references() -> Target:
    """What the front itself reads of a bundle: the reference profile and the objective."""
    from server.telemetry.drift import reference
    from server.telemetry.errors import TelemetryError
    from server.telemetry.quality import objective

    folder = Path(__file__).resolve().parents[2] / "pipelines" / "triage" / "bundle"
    # Of the profile two features and no slices: a mutation then meets what is read.
    profile = json.loads((folder / "reference" / "profile.json").read_bytes())
    profile["features"], profile["slices"] = profile["features"][:2], []
    labels = ("run on", "watch", "service soon", "stop line", "evacuate", "ignore drill")

    def check(data: bytes) -> None:
        for read in (
            lambda: reference.parse(data, ()),
            lambda: objective.parse(data, labels),
        ):
            try:
                read()
            except TelemetryError as error:
                _refused(error)

    seeds = [json.dumps(profile).encode(), (folder / "objective.json").read_bytes()]
    return Target(seeds, check)


# ---- lines that people type ----------------------------------------------------------------------


def filter_lines() -> Target:
    """Parsed, and run as SQL on both sides; an alert is matched as by a silence."""
    from console.cache import filter_sql as in_console
    from console.cache.schema import open_for_writing
    from server.telemetry.errors import BadFilter
    from server.telemetry.filters import NUMBERS, parse_filter, parse_matcher, silences
    from server.telemetry.rows import AlertRow
    from server.telemetry.store import filter_sql as in_server
    from tests.support.blank_rows import blank

    cache = open_for_writing(Path(tempfile.mkdtemp(prefix="fuzz-")) / "cache.db")
    alert = blank(AlertRow, id="a", key="audio.rms_dbfs", kind="drift", severity="high")

    def check(data: bytes) -> None:
        line = data.decode(errors="surrogateescape")
        try:
            clauses = parse_filter(line)
            condition, values = in_console.where(clauses, None)
            if not any(clause.kind == "feature" for clause in clauses):
                tables = "predictions" if "predictions" in condition else "prediction"
                cache.execute(f"SELECT count(*) FROM {tables} WHERE {condition}", values)
            in_server.where(clauses)
        except BadFilter as error:
            _refused(error)
        try:
            parse_matcher(line)
            silences(line, alert)
        except BadFilter as error:
            _refused(error)

    pieces = ["label=", "stop", '"a b"', "confidence<", "0.5", "1e400", "nan", "wrong", "!kept"]
    pieces += [
        "~",
        "site=b",
        "=",
        "!=",
        ">=",
        '"',
        "\\",
        "replica=",
        "prediction_id=",
        "*",
        "%",
        "_",
    ]
    pieces += [*NUMBERS, "kind=", "drift", "server=", "stamp=", "audio.rms_dbfs>", "task=generate"]
    seeds = [b"wrong confidence<0.5 site=b", b'label="stop line" !kept', b"kind=drift severity=*"]
    return Target(seeds, check, pieces)


# ---- what a console gets -------------------------------------------------------------------------


def console_rows() -> Target:
    """A message of a server, decoded and written into the cache."""
    from google.protobuf.message import DecodeError

    from console.cache.insert import TextIds, insert
    from console.cache.schema import open_for_writing
    from console.feed.decode import RowRefused, event
    from proto import observe_pb2 as pb

    cache = open_for_writing(Path(tempfile.mkdtemp(prefix="fuzz-")) / "cache.db")
    names = TextIds(cache, most=1_000)
    at_ms = 1_796_000_000_000
    latency = pb.LatencyRow(bucket_unix_ms=at_ms, width_s=2, counts=[1] * 64, requests=64)
    latency.exemplars.add(prediction_id="p", total_ms=3.0)
    made = [
        pb.WatchEvent(latency=latency),
        pb.WatchEvent(alert=pb.AlertRow(id="a", opened_unix_ms=at_ms, summary="text")),
        pb.WatchEvent(deploy=pb.DeployRow(at_unix_ms=at_ms, action="load", stamp="s")),
        pb.WatchEvent(
            prediction=pb.PredictionRow(
                prediction_id="p", at_unix_ms=at_ms, features=[0.5], slices={"site": "b"}
            )
        ),
        pb.WatchEvent(drift=pb.DriftRow(tick_unix_ms=at_ms, feature="f", window_s=3600)),
        pb.WatchEvent(profile=pb.ProfileRow(hour_unix_s=at_ms // 1000, feature="f", counts=[7])),
        pb.WatchEvent(quality=pb.QualityRow(bucket_unix_s=at_ms // 1000, stamp="s")),
        pb.WatchEvent(feature=pb.FeatureRow(name="f", stamp="s", edges=[0.0, 1.0])),
        pb.WatchEvent(slice=pb.SliceRow(expression="site=b")),
        pb.WatchEvent(silence=pb.SilenceRow(id="s", matcher="kind=*")),
        pb.WatchEvent(snapshot=pb.ServerSnapshot(server="one", state=pb.READY)),
    ]
    for number, message in enumerate(made):
        message.server_unix_ns, message.instance, message.cursor = at_ms * 10**6, "i", number

    def check(data: bytes) -> None:
        try:
            found = event(pb.WatchEvent.FromString(data), "a:1", float(at_ms))
        except DecodeError:
            return
        except RowRefused as error:
            _refused(error)
            return
        if found is not None:
            insert(cache, names, [found])

    return Target([message.SerializeToString() for message in made], check)


TARGETS: dict[str, Callable[[], Target]] = {
    "decoders": decoders,
    "lazy-parse": lazy_parse,
    "open-inference": open_inference,
    "bundle-files": bundle_files,
    "references": references,
    "filter-lines": filter_lines,
    "console-rows": console_rows,
}
