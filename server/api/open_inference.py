"""inference.GRPCInferenceService: the Open Inference Protocol, with those parts of Triton's
extensions that its clients and its load generator need. Rows, limits and refusals are those of the
native service."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proto import inference_pb2 as pb
from server.api import open_inference_messages as v2
from server.api.handlers import Handlers
from server.api.health import TAKES_TRAFFIC
from server.api.inference import RequestRows
from server.api.open_inference_model import (
    ONLY_BY_NAME,
    OUTPUTS,
    model_config,
    model_metadata,
    model_statistics,
)
from server.api.open_inference_tensors import (
    bytes_tensor,
    check_output,
    classification,
    examples_of,
    labels_of,
    on_truncation_of,
)
from server.api.stream import answer_stream
from server.config import ServerConfig
from server.request.caller import Caller, caller_of
from server.request.lazy_parse import message_of
from server.request.responses import parts_used_json
from server.request.status import Refused, spoken
from server.request.validation import Validator
from server.types import Answer, Facts, Fault, Outcome

SERIAL = "1"  # versions are integers in this protocol; parameters carry the stamp
LATEST = ("", "-1", SERIAL)
ALIAS = "trefoil"
DATE_SUFFIX = re.compile(r"-\d{4}(\.\d{1,2}){1,2}$")
STREAM = "inference.GRPCInferenceService.ModelStreamInfer"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
)
PART = re.compile(r"examples\[\d+\]\.parts\[\d+\](?=\.|$)")
TEXTS: dict[str, Callable[[Outcome], str]] = {
    "label": lambda outcome: outcome.answer.label if outcome.answer else "",
    "prediction_id": lambda outcome: outcome.prediction_id,
    "parts_used": parts_used_json,
}
PRIORITIES = {0: pb.NORMAL, 1: pb.HIGH, 2: pb.NORMAL}  # Triton: 0 the default, 1 the highest


@dataclass(frozen=True, slots=True)
class OpenInference:
    config: ServerConfig
    validator: Validator
    rows: RequestRows
    handlers: Handlers
    version: str

    async def ServerLive(self, _data: bytes, _context: Any) -> Any:
        return v2.ServerLiveResponse(live=True)

    async def ServerReady(self, _data: bytes, _context: Any) -> Any:
        return v2.ServerReadyResponse(ready=self._ready())

    async def ModelReady(self, data: bytes, _context: Any) -> Any:
        request = message_of(v2.ModelReadyRequest, data)
        facts = self.rows.engine.facts
        if facts is None:
            return v2.ModelReadyResponse(ready=False)
        known = self._knows(request.name, request.version, facts)
        return v2.ModelReadyResponse(ready=known and self._ready())

    async def ServerMetadata(self, _data: bytes, _context: Any) -> Any:
        return v2.ServerMetadataResponse(
            name="trefoil", version=self.version, extensions=EXTENSIONS
        )

    async def ModelMetadata(self, data: bytes, _context: Any) -> Any:
        request = message_of(v2.ModelMetadataRequest, data)
        facts = self._model(request.name, request.version)
        return model_metadata(model_name(facts), SERIAL, facts)

    async def ModelConfig(self, data: bytes, _context: Any) -> Any:
        request = message_of(v2.ModelConfigRequest, data)
        facts = self._model(request.name, request.version)
        return model_config(model_name(facts), facts, self.config)

    async def ModelStatistics(self, data: bytes, _context: Any) -> Any:
        request = message_of(v2.ModelStatisticsRequest, data)
        facts = self._facts()
        if request.name:  # an empty name means all models, and there is one
            self._check_model(request.name, request.version, facts)
        return model_statistics(model_name(facts), SERIAL, self.rows.statistics)

    async def RepositoryIndex(self, data: bytes, _context: Any) -> Any:
        request = message_of(v2.RepositoryIndexRequest, data)
        response = v2.RepositoryIndexResponse()
        facts = self.rows.engine.facts
        now = self.rows.engine.snapshot()
        ready = now.state in TAKES_TRAFFIC
        if facts is not None and (ready or not request.ready):
            state = "READY" if ready else "UNAVAILABLE"
            response.models.add(
                name=model_name(facts), version=SERIAL, state=state, reason=now.reason
            )
        return response

    async def ModelInfer(self, data: bytes, context: Any) -> Any:
        return await self._infer(message_of(v2.ModelInferRequest, data), caller_of(context))

    async def ModelStreamInfer(self, context: Any) -> None:
        caller = caller_of(context)

        async def answer(data: bytes) -> Any:
            now = replace(caller, remaining_s=context.time_remaining())
            request = v2.ModelInferRequest()
            try:
                request = message_of(v2.ModelInferRequest, data)
                response = await self._infer(request, now)
            except Refused as refusal:
                fault = refusal.faults[0]
                self.handlers.log(fault, context, STREAM, lambda: request.id)
                await self.handlers.hold(fault, context, data)
                response = v2.ModelInferResponse(model_name=request.model_name, id=request.id)
                response.parameters["stamp"].string_param = self.handlers.stamp
                return v2.ModelStreamInferResponse(
                    error_message=_with_id(request.id, spoken(fault)), infer_response=response
                )
            if request.parameters["triton_enable_empty_final_response"].bool_param:
                response.parameters["triton_final_response"].bool_param = True
            return v2.ModelStreamInferResponse(infer_response=response)

        # In this protocol each request has one answer, and clients written for Triton match them by
        # order.
        await answer_stream(context, answer, in_order=True)

    async def _infer(self, request: Any, caller: Caller) -> Any:
        """Raises Refused when any row has an error: this protocol has no field for the error of a
        single row."""
        facts = self._model(request.model_name, request.model_version)
        examples, places = examples_of(request)
        wanted = {output.name: output for output in request.outputs}
        unknown = wanted.keys() - OUTPUTS.keys()
        if unknown:
            message = f"unknown output {sorted(unknown)[0]!r}; the outputs are {', '.join(OUTPUTS)}"
            raise Refused(Fault("INVALID_ARGUMENT", "outputs", "UNKNOWN_OUTPUT", message))
        for output in wanted.values():
            check_output(output)
        native = _native(request, examples, "embedding" in wanted)
        call = self.validator.predict(native.SerializeToString(), _hurried(caller, request))
        outcomes = await self.rows.answer(call)
        faults = [_at_place(one.fault, places) for one in outcomes if one.fault is not None]
        if faults:
            raise Refused(*faults)
        names = list(wanted) or [name for name in OUTPUTS if name not in ONLY_BY_NAME]
        order = call.terms.labels or facts.labels
        response = self._response(request, outcomes, facts)
        for name in names:
            top = wanted[name].parameters["classification"].int64_param if wanted else 0
            _add_output(response, name, outcomes, order, top)
        return response

    def _response(self, request: Any, outcomes: Sequence[Outcome], facts: Facts) -> Any:
        response = v2.ModelInferResponse(
            model_name=request.model_name, model_version=SERIAL, id=request.id
        )
        bound = outcomes[0].stamp
        response.parameters["stamp"].string_param = bound
        if bound == facts.stamp:
            response.parameters["stamp_name"].string_param = facts.stamp_name
        cut = sum(one.answer.parts_cut for one in outcomes if one.answer is not None)
        if cut:  # for callers that did not ask for `parts_used`
            response.parameters["parts_cut"].int64_param = cut
        return response

    def _ready(self) -> bool:
        return self.rows.engine.snapshot().state in TAKES_TRAFFIC

    def _facts(self) -> Facts:
        facts = self.rows.engine.facts
        if facts is None:
            raise Refused(Fault("UNAVAILABLE", "", "STARTING", "no replica has loaded yet", 1.0))
        return facts

    def _model(self, name: str, version: str) -> Facts:
        facts = self._facts()
        self._check_model(name, version, facts)
        return facts

    def _knows(self, name: str, version: str, facts: Facts) -> bool:
        return name in (model_name(facts), ALIAS) and version in LATEST

    def _check_model(self, name: str, version: str, facts: Facts) -> None:
        if not self._knows(name, version, facts):
            message = (
                f"no model {name!r} version {version!r}; there is {model_name(facts)!r} "
                f"version {SERIAL}"
            )
            raise Refused(Fault("NOT_FOUND", "model_name", "UNKNOWN_MODEL", message))


def _with_id(request_id: str, message: str) -> str:
    """The message in Triton's form: its client keeps only the message of an answer with an
    error."""
    return f"[request id: {request_id}] {message}" if request_id else message


def model_name(facts: Facts) -> str:
    """The bundle's name without its date, so that a client need not change with every bundle."""
    full = facts.stamp_detail.get("name", "") or facts.stamp_name.partition("+")[0]
    return DATE_SUFFIX.sub("", full) or ALIAS


def _native(request: Any, examples: list[pb.Example], want_embedding: bool) -> pb.PredictRequest:
    parameters = request.parameters
    session = parameters["sequence_id"] if "sequence_id" in parameters else None
    expected = parameters["expected_stamp"].string_param if "expected_stamp" in parameters else ""
    given = parameters["priority"] if "priority" in parameters else None
    level = (given.uint64_param or given.int64_param) if given else 0
    return pb.PredictRequest(
        request_id=request.id,
        examples=examples,
        labels=labels_of(parameters),
        want_embedding=want_embedding,
        expected_stamps=[expected] if expected else [],
        priority=PRIORITIES.get(level, pb.LOW),
        session_id=(session.string_param or str(session.int64_param)) if session else "",
        on_truncation=on_truncation_of(parameters),
    )


def _hurried(caller: Caller, request: Any) -> Caller:
    """The caller with the deadline of Triton's `timeout` parameter (microseconds), if that is
    sooner than the call's."""
    if "timeout" not in request.parameters:
        return caller
    timeout_s = request.parameters["timeout"].int64_param / 1e6
    if timeout_s <= 0 or (caller.remaining_s is not None and caller.remaining_s < timeout_s):
        return caller
    return replace(caller, remaining_s=timeout_s)


def _at_place(fault: Fault, places: dict[str, str]) -> Fault:
    """The fault, with its field in the caller's notation."""
    part = PART.match(fault.field)
    theirs = places.get(part[0], "") if part else ""
    return replace(fault, field=theirs) if theirs else fault


def _add_output(
    response: Any,
    name: str,
    outcomes: Sequence[Outcome],
    order: Sequence[str],
    top: int,
) -> None:
    answers = [one.answer for one in outcomes if one.answer is not None]
    rows = len(answers)
    if name == "scores" and top > 0:
        top = min(top, len(order))
        kind, width = "BYTES", top
        elements = [one for answer in answers for one in classification(answer, top, order)]
        raw = bytes_tensor(elements)
    elif name in TEXTS:
        texts = [TEXTS[name](one) for one in outcomes]
        kind, width, raw = "BYTES", 1, bytes_tensor([text.encode() for text in texts])
    elif name == "embedding":
        kind, width = "FP32", len(answers[0].embedding) // 4
        raw = b"".join(answer.embedding for answer in answers)
    else:
        numbers = [number for answer in answers for number in _numbers(name, answer, order)]
        kind, width = "FP32", len(numbers) // rows
        raw = struct.pack(f"<{len(numbers)}f", *numbers)
    response.outputs.add(name=name, datatype=kind, shape=[rows, width])
    response.raw_output_contents.append(raw)


def _numbers(name: str, answer: Answer, order: Sequence[str]) -> list[float]:
    """`score` is the best label's probability, `scores` the probabilities of all labels in
    order."""
    if name == "score":
        return [answer.confidence]
    by_label = {score.label: score.probability for score in answer.scores}
    return [by_label[label] for label in order]
