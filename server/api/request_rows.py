"""The rows of one request answered side by side: what both wire forms share."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace

from proto import inference_pb2 as pb
from server.api.model_statistics import ModelStatistics
from server.engine import Engine
from server.request.responses import placed
from server.request.status import Refused
from server.request.validation import ParsedRequest, Validator
from server.types import Outcome, Timing, Work

NO_REPLICA = -1
PART_FIELD = re.compile(r"parts\[(?P<index>\d+)\]\.(?P<name>mime|data)")


@dataclass(frozen=True, slots=True)
class Rows:
    engine: Engine
    validator: Validator
    statistics: ModelStatistics

    async def answer(self, call: ParsedRequest) -> list[Outcome]:
        """One outcome a row, in order. A row at fault never disturbs another."""
        fields = [f"examples[{index}]" for index in range(len(call.rows))]
        if len(call.rows) == 1:  # the common case needs no task
            return [await self._one(call, call.rows[0], fields[0])]
        rows = zip(call.rows, fields, strict=True)
        return await asyncio.gather(*(self._one(call, row, field) for row, field in rows))

    def work(self, call: ParsedRequest, row: bytes, field: str) -> Work:
        """Raises Refused, counted, when the row's bytes alone tell that it cannot be served."""
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
        self.statistics.add(outcome)
        return placed(in_wire_names(outcome, work), field)


def in_wire_names(outcome: Outcome, work: Work) -> Outcome:
    """The pipeline calls a part's content `data` and its type `mime`, whatever the message did."""
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
