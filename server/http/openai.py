"""/v1/models, /v1/embeddings and /v1/chat/completions as OpenAI's clients expect them. A chat is
one example, made of the parts of its messages in order; its answer is the text from Generate."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proto import inference_pb2 as pb
from server.api.open_inference import ALIAS, model_name
from server.http.calls import Calls
from server.http.exchange import Exchange, Header, Response, json_bytes, json_of
from server.http.native import GENERATE, PREDICT
from server.http.openai_requests import (
    ChatRequest,
    EmbeddingsRequest,
    chat_request,
    embeddings_request,
)
from server.http.refusals import CallRefusal, CallRefused, HttpRefused
from server.http.status import (
    ID_HEADER,
    STAMP_HEADER,
    answer_headers,
    refusal_headers,
    status_of,
)
from server.request.plain_answers import floats_of
from server.request.validation import LONGEST_ID
from server.types import Facts

DESCRIBE = "/trefoil.v1.Inference/Describe"
REQUEST_ID = b"x-request-id"
EVENTS = b"text/event-stream"
DONE = b"data: [DONE]\n\n"
PART = re.compile(r"examples?(?:\[0\])?\.parts\[(?P<index>\d+)\](?:\.\w+)?")
ROW = re.compile(r"examples\[(?P<index>\d+)\](?:\.parts\[0\](?:\.\w+)?)?")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class OpenAiRoutes:
    calls: Calls
    facts: Callable[[], Facts | None]
    started: float  # unix seconds, sent to clients as the time when the model was created
    wall: Callable[[], float] = time.time

    async def models(self, exchange: Exchange) -> Response:
        await self._described(exchange)
        return Response(200, json_bytes({"object": "list", "data": [self._model()]}))

    async def model(self, exchange: Exchange, name: str) -> Response:
        await self._described(exchange)
        self._check(name)
        return Response(200, json_bytes(self._model()))

    async def embeddings(self, exchange: Exchange) -> Response:
        asked = EmbeddingsRequest()
        facts = self._serving()

        async def read() -> bytes:
            nonlocal asked
            found = json_of(await exchange.body())
            asked = embeddings_request(found, _request_id(exchange), facts.embedding_dimensions)
            self._check(asked.model)
            return asked.data

        try:
            answer = await self.calls.make(PREDICT, exchange.call(), read)
        except CallRefused as refused:
            raise CallRefused(_in_terms(refused.refusal, ROW, "input[{}]")) from None
        faults = [one.fault for one in answer.results if one.HasField("fault")]
        if faults:  # this protocol has one answer for all inputs, and no field for the error of one
            raise CallRefused(_in_terms(_of_fault(faults[0]), ROW, "input[{}]"))
        tokens = sum(one.prediction.tokens_used for one in answer.results)
        body = {
            "object": "list",
            "model": asked.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _embedding(one, asked.base64)}
                for index, one in enumerate(answer.results)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        slowest = max(answer.results, key=lambda one: one.timing.total_ms)
        ids = [one.prediction_id for one in answer.results]
        headers = answer_headers(answer.stamp.hex, ids, slowest.timing)
        headers.append((REQUEST_ID, answer.request_id.encode()))
        return Response(200, json_bytes(body), headers=headers)

    async def chat(self, exchange: Exchange) -> Response | None:
        """Answer a chat; None if the answer was streamed."""
        writer = _ChatWriter(exchange, int(self.wall()))
        self._serving()

        async def read() -> bytes:
            asked = chat_request(json_of(await exchange.body()), _request_id(exchange))
            self._check(asked.model)
            writer.asked = asked
            return asked.data

        try:
            await self.calls.make(GENERATE, exchange.call(writer.write), read)
        except CallRefused as refused:
            refusal = _in_place(refused.refusal, writer.asked.places)
            if not exchange.started:
                raise CallRefused(refusal) from None
            # Too late for a status code: the stream ends with the error.
            error = json_bytes(_error(status_of(refusal), refusal))
            await exchange.write(b"data: " + error + b"\n\n", more=False)
            return None
        return await writer.end()

    async def _described(self, exchange: Exchange) -> None:
        """Check that the caller may call Describe: then it may list models."""
        await self.calls.ask(DESCRIBE, b"", exchange.call())

    def _serving(self) -> Facts:
        facts = self.facts()
        if facts is None:
            text = "no replica has loaded yet [STARTING]"
            raise CallRefused(CallRefusal("UNAVAILABLE", text, "", "STARTING", 1.0))
        return facts

    def _check(self, model: str) -> None:
        name = model_name(self._serving())
        if model not in (name, ALIAS):
            text = f"there is no model {model[:LONGEST_ID]!r}; there is {name!r}"
            raise HttpRefused(404, "MODEL_NOT_FOUND", text, "model")

    def _model(self) -> dict[str, Any]:
        name = model_name(self._serving())
        return {"id": name, "object": "model", "created": int(self.started), "owned_by": "trefoil"}


@dataclass(slots=True)
class _ChatWriter:
    """Receives the events of Generate, and writes a stream of chunks or one answer at the end."""

    exchange: Exchange
    created: int
    asked: ChatRequest = field(default_factory=ChatRequest)
    _pieces: list[str] = field(default_factory=list)
    _last: pb.GenerateEvent = field(default_factory=pb.GenerateEvent)
    _stamp: str = ""

    async def write(self, event: pb.GenerateEvent) -> None:
        self._last = event
        self._stamp = event.stamp.hex or self._stamp  # only the first and the last event have it
        if not self.asked.stream:
            self._pieces.append(event.text)
            return
        if not self.exchange.started:
            await self._begin(event)
        if event.HasField("text"):
            await self._chunk({"content": event.text})

    async def end(self) -> Response | None:
        end = self._last.end
        if self.asked.stream:
            if not self.exchange.started:  # a text without tokens
                await self._begin(self._last)
            await self._chunk({}, end.finish_reason)
            if self.asked.usage:
                await self.exchange.write(self._event({"choices": [], "usage": self._usage()}))
            await self.exchange.write(DONE, more=False)
            return None
        message = {"role": "assistant", "content": "".join(self._pieces), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": end.finish_reason,
        }
        body = {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": self._usage(),
        }
        stamp, made = self._last.stamp.hex, self._last.prediction_id
        return Response(200, json_bytes(body), headers=answer_headers(stamp, [made], end.timing))

    async def _begin(self, event: pb.GenerateEvent) -> None:
        """Send the head of a stream, without the times, which are not known yet."""
        headers: list[Header] = [
            (STAMP_HEADER, event.stamp.hex.encode()),
            (ID_HEADER, event.prediction_id.encode()),
        ]
        await self.exchange.begin_stream(EVENTS, headers)
        await self._chunk({"role": "assistant", "content": ""})

    async def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        await self.exchange.write(self._event({"choices": [choice]}))

    def _event(self, more: dict[str, Any]) -> bytes:
        return b"data: " + json_bytes(self._head("chat.completion.chunk") | more) + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._last.prediction_id}",
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self._stamp or None,
        }

    def _usage(self) -> dict[str, int]:
        """Prompt tokens are those of the texts: pictures and sounds are not counted."""
        end = self._last.end
        prompt = sum(part.tokens_used for part in end.parts_used)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": end.tokens,
            "total_tokens": prompt + end.tokens,
        }


def refused(refusal: CallRefusal, stamp: str) -> Response:
    status = status_of(refusal)
    return Response(
        status, json_bytes(_error(status, refusal)), headers=refusal_headers(refusal, stamp)
    )


def http_refused(refusal: HttpRefused) -> Response:
    where = f"{refusal.field}: " if refusal.field else ""
    named = CallRefusal("", f"{where}{refusal.message}", refusal.field, refusal.reason)
    return Response(refusal.status, json_bytes(_error(refusal.status, named)))


def _error(status: int, refusal: CallRefusal) -> dict[str, Any]:
    default = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": refusal.message,
            "type": TYPES.get(status, default),
            "param": refusal.field or None,
            "code": refusal.reason.lower() or None,
        }
    }


def _in_place(refusal: CallRefusal, places: Sequence[str]) -> CallRefusal:
    """The refusal, with the caller's name for a part: `messages[0].content[1]`."""

    def named(found: re.Match[str]) -> str:
        index = int(found["index"])
        return places[index] if index < len(places) else found[0]

    return replace(
        refusal,
        message=PART.sub(named, refusal.message),
        field=PART.sub(named, refusal.field),
    )


def _in_terms(refusal: CallRefusal, pattern: re.Pattern[str], form: str) -> CallRefusal:
    def named(found: re.Match[str]) -> str:
        return form.format(found["index"])

    return replace(
        refusal,
        message=pattern.sub(named, refusal.message),
        field=pattern.sub(named, refusal.field),
    )


def _of_fault(fault: pb.Fault) -> CallRefusal:
    where = f"{fault.field}: " if fault.field else ""
    message = f"{where}{fault.message} [{fault.reason}]"
    return CallRefusal(fault.code, message, fault.field, fault.reason, fault.retry_after_s)


def _embedding(result: pb.Result, coded: bool) -> Any:
    """Float32, little-endian, in base64; or a list of numbers."""
    embedding = result.prediction.embedding
    return base64.b64encode(embedding.values).decode() if coded else floats_of(embedding)


def _request_id(exchange: Exchange) -> str:
    return exchange.headers.get(REQUEST_ID, b"")[:LONGEST_ID].decode("latin-1")
