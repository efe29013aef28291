"""Turns OpenAI's requests into those of trefoil.v1.Inference. A field that asks for an unsupported
feature is refused by name; a field that does not affect the answer is accepted."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proto import inference_pb2 as pb
from server.http.refusals import HttpRefused
from server.request.modalities import MODALITIES
from server.request.validation import LONGEST_ID
from server.request.wire import LoosePart, request_of_parts

DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
LONGEST_MIME = 100
# Fields that do not affect answers here: bookkeeping of the original service.
IGNORED = frozenset(
    ("user", "seed", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
)
# Values that ask for the built-in behaviour: the most probable token, one answer, text only.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "temperature": (0,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "reasoning_effort": ("none",),
    "logit_bias": ({},),
}
CHAT = frozenset(
    ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options")
)
EMBED = frozenset(("model", "input", "encoding_format", "dimensions"))
ROLES = ("system", "developer", "user")

Places = list[str]  # index of a part -> the caller's name of it


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str = ""
    data: bytes = b""  # a GenerateRequest
    places: Sequence[str] = ()
    stream: bool = False
    usage: bool = False  # send the usage in a last chunk


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    model: str = ""
    data: bytes = b""  # a PredictRequest
    base64: bool = False


def chat_request(found: dict[str, Any], request_id: str) -> ChatRequest:
    """The request of a chat. Raises HttpRefused."""
    _check_fields(found, CHAT)
    places: Places = []
    parts = list(_parts(found.get("messages"), places))
    if not parts:
        raise _refused("messages", "EMPTY", "give at least one part of content")
    stream = _truth(found.get("stream", False), "stream")
    options = found.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _refused("stream_options", "WRONG_TYPE", "an object is needed")
    most = found.get("max_completion_tokens") or found.get("max_tokens") or 0
    if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most < 1 << 32:
        raise _refused("max_completion_tokens", "WRONG_TYPE", "a whole number above 0 is needed")
    head = pb.GenerateRequest(request_id=request_id, max_new_tokens=most)
    usage = stream and _truth(options.get("include_usage", False), "stream_options.include_usage")
    data = request_of_parts(head, parts)
    return ChatRequest(_model(found), data, places, stream, usage)


def embeddings_request(
    found: dict[str, Any], request_id: str, dimensions: int
) -> EmbeddingsRequest:
    """The request for embeddings: each text is an example. Raises HttpRefused."""
    _check_fields(found, EMBED)
    given = found.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        text = "a text or a list of texts is needed; this server takes no lists of token ids"
        raise _refused("input", "WRONG_TYPE", text)
    wanted = found.get("dimensions")
    if wanted not in (None, dimensions):
        text = f"embeddings of this bundle have {dimensions} dimensions and are not shortened"
        raise _refused("dimensions", "WRONG_DIMENSIONS", text)
    form = found.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise _refused("encoding_format", "UNKNOWN_CHOICE", "there are float and base64")
    request = pb.PredictRequest(request_id=request_id, task=pb.EMBED)
    for index, one in enumerate(texts):
        text = _utf8(one, f"input[{index}]").decode()
        request.examples.add(parts=[pb.Part(text=text, modality=pb.TEXT)])
    return EmbeddingsRequest(_model(found), request.SerializeToString(), form == "base64")


def _parts(messages: Any, places: Places) -> Iterator[LoosePart]:
    """The content of all messages in order, as the parts of one example."""
    if not isinstance(messages, list):
        raise _refused("messages", "WRONG_TYPE", "a list of messages is needed")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _refused(where, "WRONG_TYPE", "a message is an object")
        role = message.get("role")
        if role not in ROLES:
            text = (
                f"the roles are {', '.join(ROLES)}: the model reads one example at a time and "
                "knows of no earlier answers or tools"
            )
            raise _refused(f"{where}.role", "UNKNOWN_ROLE", text)
        content = message.get("content")
        if isinstance(content, str):
            content, at = [{"type": "text", "text": content}], f"{where}.content"
            places_of = [at]
        elif isinstance(content, list):
            places_of = [f"{where}.content[{number}]" for number in range(len(content))]
        else:
            raise _refused(f"{where}.content", "WRONG_TYPE", "a text or a list of parts is needed")
        for part, at in zip(content, places_of, strict=True):
            made = _part(part, at)
            places.append(at)
            yield made


def _part(part: Any, at: str) -> LoosePart:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        head = pb.Part(modality=MODALITIES["text"])
        return LoosePart(head, _utf8(part.get("text"), f"{at}.text"), text=True)
    if kind == "image_url":
        url = part.get("image_url")
        field = f"{at}.image_url.url"
        return _data_part(
            "image", _of_data_url(url.get("url") if isinstance(url, dict) else url, field)
        )
    if kind == "input_audio":
        sound = part.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        return _data_part("audio", _decoded(data, f"{at}.input_audio.data"))
    text = "the types are text, image_url and input_audio"
    raise _refused(f"{at}.type", "UNKNOWN_TYPE", text)


def _data_part(modality: str, data: bytes) -> LoosePart:
    return LoosePart(pb.Part(modality=MODALITIES[modality]), data)


def _of_data_url(url: Any, field: str) -> bytes:
    if not isinstance(url, str):
        raise _refused(field, "WRONG_TYPE", "a URL is needed")
    head = DATA_URL.match(url, 0, LONGEST_MIME)
    if head is None:
        text = "only data:TYPE;base64,... URLs are taken: this server fetches nothing"
        raise _refused(field, "NOT_A_DATA_URL", text)
    return _decoded(url[head.end() :], field)


def _decoded(text: Any, field: str) -> bytes:
    if not isinstance(text, str):
        raise _refused(field, "WRONG_TYPE", "base64 is needed")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(field, "BASE64_MALFORMED", f"not base64: {error}"[:120]) from None


def _check_fields(found: dict[str, Any], known: frozenset[str]) -> None:
    for name, value in found.items():
        if name in known or name in IGNORED or value is None:
            continue
        if name not in NEUTRAL:
            raise _refused(name[:LONGEST_ID], "UNKNOWN_FIELD", "this server does not offer it")
        if not any(value == neutral for neutral in NEUTRAL[name]):
            shown = " or ".join(repr(neutral) for neutral in NEUTRAL[name])
            raise _refused(name, "NOT_OFFERED", f"this server offers {shown} only")


def _model(found: dict[str, Any]) -> str:
    model = found.get("model")
    if not isinstance(model, str) or not model:
        raise _refused("model", "WRONG_TYPE", "the name of a model is needed: see /v1/models")
    return model


def _truth(value: Any, field: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _refused(field, "WRONG_TYPE", "true or false is needed")
    return bool(value)


def _utf8(text: Any, field: str) -> bytes:
    if not isinstance(text, str):
        raise _refused(field, "WRONG_TYPE", "a text is needed")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _refused(field, "TEXT_NOT_UTF8", "half of a surrogate pair is not text") from None


def _refused(field: str, reason: str, message: str) -> HttpRefused:
    return HttpRefused(400, reason, message, field)
