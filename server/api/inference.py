"""The native service, trefoil.v1.Inference: messages in, outcomes out. It makes no decisions about
work; the engine does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from proto import inference_pb2 as pb
from server.api.feedback_messages import in_order, items_of, response_of
from server.api.handlers import Handlers
from server.api.model_statistics import ModelStatistics
from server.api.snapshot_messages import ServerIdentity
from server.api.stream import answer_stream, name_of_call
from server.engine import Engine
from server.request.by_name import filled
from server.request.caller import Caller, caller_of
from server.request.lazy_parse import message_of, request_id_of
from server.request.limits import in_force
from server.request.modalities import MODALITIES
from server.request.responses import (
    common_fault,
    parts_used_messages,
    placed,
    result_message,
    stamp_message,
)
from server.request.status import STAMP_KEY, Refused, bad_input
from server.request.uploads import UploadStore
from server.request.validation import ParsedRequest, Validator
from server.request.worker_threads import WorkerThreads
from server.telemetry.outputs import Timing, times_of
from server.telemetry.stamps.feedback import FeedbackItem
from server.telemetry_port import TelemetryPort
from server.types import NO_REPLICA, Fault, Outcome, Token, Work

TASKS = ("classify", "embed", "generate")
LARGEST_HEADER = 64 * 1024  # of an upload; its strings have limits of their own
PART_FIELD = re.compile(r"parts\[(?P<index>\d+)\]\.(?P<name>mime|data)")


@dataclass(frozen=True, slots=True)
class RequestRows:
    """The rows of one request, answered side by side; both wire protocols use it."""

    engine: Engine
    validator: Validator
    statistics: ModelStatistics

    async def answer(self, call: ParsedRequest) -> list[Outcome]:
        """One outcome for each row, in order. A row with an error never affects another."""
        fields = [f"examples[{index}]" for index in range(len(call.rows))]
        if len(call.rows) == 1:  # the common case, without a task
            outcomes = [await self._one(call, call.rows[0], fields[0])]
        else:
            rows = zip(call.rows, fields, strict=True)
            name = name_of_call()
            tasks = (asyncio.create_task(self._one(call, row, at), name=name) for row, at in rows)
            outcomes = await asyncio.gather(*tasks)
        # A row without an id did not reach the engine.
        if served := [one for one in outcomes if one.prediction_id]:
            self.statistics.add(served)
        return outcomes

    def work(self, call: ParsedRequest, row: bytes, field: str) -> Work:
        """The work of one row. Raises Refused, and counts it, when the row's bytes alone show that
        it cannot be served."""
        try:
            return self.validator.work(row, field, call.terms)
        except Refused:
            self.statistics.invalid_rows += 1
            raise

    async def _one(self, call: ParsedRequest, row: bytes, field: str) -> Outcome:
        try:
            work = self.work(call, row, field)
        except Refused as refusal:
            facts = self.engine.facts
            stamp = facts.stamp if facts else ""
            return Outcome("", None, refusal.faults[0], Timing(), 0, stamp, NO_REPLICA)
        outcome = await self.engine.predict(work)
        return placed(in_wire_names(outcome, work), field)


def in_wire_names(outcome: Outcome, work: Work) -> Outcome:
    """Rename fields of a fault: the pipeline calls a part's content `data` and its type `mime`,
    whatever the message called them."""
    fault = outcome.fault
    found = PART_FIELD.fullmatch(fault.field) if fault else None
    if fault is None or found is None:
        return outcome
    name = found["name"]
    if name == "mime":
        name = "mime_type"
    elif name == "data":
        part = pb.Example.FromString(work.example).parts[int(found["index"])]
        name = part.WhichOneof("source") or name
    named = replace(fault, field=f"parts[{found['index']}].{name}")
    return replace(outcome, fault=named)


STREAM = "trefoil.v1.Inference.PredictStream"


@dataclass(frozen=True, slots=True)
class Inference:
    engine: Engine
    validator: Validator
    rows: RequestRows
    uploads: UploadStore
    handlers: Handlers
    identity: ServerIdentity
    telemetry: TelemetryPort
    _joining: WorkerThreads = field(default_factory=lambda: WorkerThreads("feedback", 1, 32))

    async def Predict(self, data: bytes, context: Any) -> pb.PredictResponse:
        call = self.validator.predict(data, caller_of(context))
        outcomes = await self.rows.answer(call)
        fault = common_fault(outcomes)
        if fault is not None:
            raise Refused(fault)
        response = self._response(call, outcomes)
        context.set_trailing_metadata(((STAMP_KEY, response.stamp.hex),))
        return response

    async def PredictStream(self, context: Any) -> None:
        caller = caller_of(context)

        async def answer(data: bytes) -> pb.PredictResponse:
            now = replace(caller, remaining_s=context.time_remaining())
            response, fault = await self._stream_answer(data, now)
            if fault is not None:
                self.handlers.log(fault, context, STREAM, lambda: response.request_id)
                await self.handlers.hold(fault, context, data)
            return response

        await answer_stream(context, answer)

    async def Generate(self, data: bytes, context: Any) -> AsyncIterator[pb.GenerateEvent]:
        call = self.validator.generate(data, caller_of(context))
        work = self.rows.work(call, call.rows[0], "example")
        first = True
        async with aclosing(self.engine.generate(work)) as items:
            async for item in items:
                event = pb.GenerateEvent(prediction_id=work.id)
                if isinstance(item, Token):
                    event.text = item.text
                    if first:
                        event.stamp.CopyFrom(stamp_message(self.engine.facts, item.stamp))
                        first = False
                else:
                    outcome = placed(in_wire_names(item.outcome, work), "example")
                    if outcome.fault is not None:
                        raise Refused(outcome.fault)
                    event.end.finish_reason = item.finish_reason
                    event.end.tokens = item.tokens
                    event.end.first_token_ms = item.first_token_ms
                    event.end.replica = max(outcome.replica, 0)
                    event.end.parts_used.extend(parts_used_messages(outcome))
                    event.end.timing.CopyFrom(pb.Timing(**times_of(outcome.timing)))
                    event.stamp.CopyFrom(stamp_message(self.engine.facts, outcome.stamp))
                yield event

    async def Upload(self, _requests: Any, context: Any) -> pb.UploadReceipt:
        host = caller_of(context).host
        piece = await self._piece(context, LARGEST_HEADER)
        if piece is None or not piece.HasField("header"):
            raise Refused(bad_input("header", "NO_HEADER", "the first message must be the header"))
        header = piece.header
        receiving = self.uploads.reserve(host, header.total_bytes, header.sha256, header.mime_type)
        kept = None
        try:
            while (piece := await self._piece(context)) is not None:
                if not piece.HasField("data"):
                    raise Refused(bad_input("data", "NO_DATA", "after the header come chunks"))
                receiving.add(piece.data)
            kept = self.uploads.keep(host, receiving)
        finally:
            if kept is None:
                self.uploads.give_up(host, header.total_bytes)
        return pb.UploadReceipt(
            upload_id=kept.id,
            total_bytes=len(kept.data),
            sha256=kept.sha256,
            expires_unix_ms=int((time.time() + self.uploads.limits.ttl_s) * 1000),
        )

    async def Feedback(self, data: bytes, _context: Any) -> pb.FeedbackResponse:
        items = items_of(data)
        sound = [item for item in items if isinstance(item, FeedbackItem)]
        results = await self._joining.run(lambda: self.telemetry.feedback(sound)) if sound else []
        self.engine.learnt(sound, results)
        return response_of(in_order(items, results))

    async def Describe(self, data: bytes, _context: Any) -> pb.DescribeResponse:
        message_of(pb.DescribeRequest, data)
        facts = self.engine.facts
        if facts is None:
            raise Refused(Fault("UNAVAILABLE", "", "STARTING", "no replica has loaded yet", 1.0))
        described = filled(
            pb.DescribeResponse,
            facts,
            stamp=stamp_message(facts),
            modalities=MODALITIES,
            tasks=TASKS,
            limits=(),
            server_version=self.identity.version,
            server_name=self.identity.name,
            queue_seconds=self.engine.snapshot().queue_seconds,
        )
        for name, value, unit in in_force(self.identity.limits, facts):
            described.limits.add(name=name, value=value, unit=unit)
        return described

    async def _stream_answer(
        self, data: bytes, caller: Caller
    ) -> tuple[pb.PredictResponse, Fault | None]:
        """The answer, and the fault that all its rows have in common. Never raises Refused: a
        stream outlives a bad request, whose answer then has the fault as its only result."""
        try:
            call = self.validator.predict(data, caller)
        except Refused as refusal:
            fault = refusal.faults[0]
            response = pb.PredictResponse(
                request_id=request_id_of(data), stamp=stamp_message(self.engine.facts)
            )
            response.results.add(fault=filled(pb.Fault, fault), stamp=self.handlers.stamp)
            return response, fault
        outcomes = await self.rows.answer(call)
        return self._response(call, outcomes), common_fault(outcomes)

    def _response(self, call: ParsedRequest, outcomes: Sequence[Outcome]) -> pb.PredictResponse:
        bound = next((outcome.stamp for outcome in outcomes if outcome.answer), "")
        return pb.PredictResponse(
            request_id=call.request_id,
            results=[result_message(outcome, call.top_k) for outcome in outcomes],
            stamp=stamp_message(self.engine.facts, bound),
        )

    async def _piece(self, context: Any, largest: int | None = None) -> pb.UploadChunk | None:
        """The next message of an upload, or None at its end. A header of more than `largest` bytes
        is refused before it is parsed: its strings would be copied three times."""
        idle_s = self.uploads.limits.idle_s
        try:
            async with asyncio.timeout(idle_s):
                data = await context.read()
        except TimeoutError:
            text = f"nothing arrived for {idle_s:.0f} s"
            raise Refused(Fault("DEADLINE_EXCEEDED", "data", "UPLOAD_IDLE", text)) from None
        if largest is not None and data is not grpc.aio.EOF and len(data) > largest:
            text = f"the first message has {len(data):,} bytes; the limit is {largest:,}"
            raise Refused(bad_input("header", "TOO_LONG", text))
        return None if data is grpc.aio.EOF else message_of(pb.UploadChunk, data, "upload")
