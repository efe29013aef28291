"""POST /v1/predict and /v1/generate: one example as a form; the answer is in the form of `server
predict --json`. The fields have the names of that command's flags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proto import inference_pb2 as pb
from server.http.calls import Calls, Read
from server.http.exchange import Exchange, Response, json_bytes
from server.http.form import FormField, fields_of
from server.http.refusals import CallRefusal, HttpRefused
from server.http.status import answer_headers
from server.request.modalities import MODALITIES
from server.request.plain_answers import plain_generation, plain_prediction
from server.request.validation import LONGEST_ID
from server.request.wire import LoosePart, request_of_parts

PREDICT = "/trefoil.v1.Inference/Predict"
GENERATE = "/trefoil.v1.Inference/Generate"
# A form has only this one example.
ONE_EXAMPLE = re.compile(r"example(?:s\[0\])?\.(?=parts|slices)")

# Field of the form -> field of the request.
_TEXTS = {"request_id": "request_id", "session": "session_id"}
_CHOICES: dict[str, Any] = {"priority": pb.Priority, "on_truncation": pb.OnTruncation}
_NUMBERS = {"predict": ("top_k",), "generate": ("max_new_tokens",)}
_LISTS = {
    "predict": {"label": "labels", "expected_stamp": "expected_stamps"},
    "generate": {"expected_stamp": "expected_stamps"},
}
_YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(slots=True)
class ExampleForm:
    """The content of a form: parts in order, and the fields of the request."""

    kind: str  # predict | generate
    parts: list[LoosePart] = field(default_factory=list)
    slices: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)

    def add(self, one: FormField) -> None:
        """Add one field. Raises HttpRefused for an unknown field or an invalid value."""
        name = one.name
        if name in MODALITIES:
            self.parts.append(_part(one))
        elif name in _LISTS[self.kind]:
            self.request.setdefault(_LISTS[self.kind][name], []).append(one.text())
        elif name in _TEXTS:
            self.request[_TEXTS[name]] = one.text()
        elif name in _CHOICES:
            self.request[name] = _chosen(name, one.text())
        elif name in _NUMBERS[self.kind]:
            self.request[name] = _number(name, one.text())
        elif name == "embed" and self.kind == "predict":
            self.request["want_embedding"] = _yes(one.text())
        elif name == "slice":
            key, equals, value = one.text().partition("=")
            if not (key and equals):
                raise HttpRefused(400, "SLICE_MALFORMED", "a slice is NAME=VALUE", "slice")
            self.slices[key] = value
        else:
            raise HttpRefused(
                400, "UNKNOWN_FIELD", f"there are {', '.join(self.names())}", name[:LONGEST_ID]
            )

    def names(self) -> Sequence[str]:
        more = ("embed",) if self.kind == "predict" else ()
        own = (*_LISTS[self.kind], *_NUMBERS[self.kind], *more)
        return (*MODALITIES, *own, *_TEXTS, *_CHOICES, "slice")

    def data(self) -> bytes:
        kind = pb.PredictRequest if self.kind == "predict" else pb.GenerateRequest
        if not self.parts:
            text = f"give at least one of {', '.join(MODALITIES)}"
            raise HttpRefused(400, "EMPTY", text)
        return request_of_parts(kind(**self.request), self.parts, self.slices)


@dataclass(frozen=True, slots=True)
class NativeRoutes:
    calls: Calls

    async def predict(self, exchange: Exchange) -> Response:
        response = await self.calls.make(PREDICT, exchange.call(), _form(exchange, "predict"))
        (result,) = response.results
        found = plain_prediction(result, response.stamp.name)
        headers = answer_headers(result.stamp, [result.prediction_id], result.timing)
        return Response(200, json_bytes(found), headers=headers)

    async def generate(self, exchange: Exchange) -> Response:
        pieces: list[str] = []
        last = pb.GenerateEvent()

        async def write(event: pb.GenerateEvent) -> None:
            pieces.append(event.text)
            last.CopyFrom(event)

        await self.calls.make(GENERATE, exchange.call(write), _form(exchange, "generate"))
        found = plain_generation(last, "".join(pieces))
        headers = answer_headers(last.stamp.hex, [last.prediction_id], last.end.timing)
        return Response(200, json_bytes(found), headers=headers)


def _form(exchange: Exchange, kind: str) -> Read:
    """The function that reads the form and makes the request from it."""

    async def read() -> bytes:
        form = ExampleForm(kind)
        body = await exchange.body()
        for one in fields_of(body, exchange.headers.get(b"content-type", b"")):
            form.add(one)
        return form.data()

    return read


def in_form_terms(refusal: CallRefusal) -> CallRefusal:
    """The refusal, with paths relative to the form's only example: `parts[1].data`."""
    return CallRefusal(
        refusal.code,
        ONE_EXAMPLE.sub("", refusal.message),
        ONE_EXAMPLE.sub("", refusal.field),
        refusal.reason,
        refusal.retry_after_s,
    )


def _part(one: FormField) -> LoosePart:
    head = pb.Part(id=one.file[:LONGEST_ID], modality=MODALITIES[one.name])
    return LoosePart(head, one.content, text=one.name == "text")


def _chosen(name: str, text: str) -> int:
    kind = _CHOICES[name]
    known = {key.lower(): number for key, number in kind.items() if number}
    if text.lower() not in known:
        raise HttpRefused(400, "UNKNOWN_CHOICE", f"there are {', '.join(known)}", name)
    return int(known[text.lower()])


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HttpRefused(400, "NOT_A_NUMBER", "a whole number of 0 or more is needed", name)
    return int(text)


def _yes(text: str) -> bool:
    if text.lower() not in _YES:
        raise HttpRefused(400, "NOT_A_SWITCH", "true or false is needed", "embed")
    return _YES[text.lower()]
