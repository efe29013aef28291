"""The Open Inference Protocol's JSON, with the extension for binary tensors. The JSON comes first
and has `Inference-Header-Content-Length` bytes. The bytes of each tensor with a `binary_data_size`
follow."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from server.api import open_inference_messages as v2
from server.api.open_inference_tensors import MOST_ELEMENTS, MOST_INPUTS
from server.http.exchange import json_bytes, json_of
from server.http.refusals import HttpRefused
from server.request.wire import LENGTH_DELIMITED, Content, varint

BINARY_SIZE = "binary_data_size"
BINARY = "binary_data"
BINARY_OUTPUT = "binary_data_output"
LONGEST_FIELD = 64
RAW = bytes(
    [
        v2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3
        | LENGTH_DELIMITED
    ]
)
_INTEGERS = frozenset(
    (
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    )
)


def infer_request(body: bytes, header_length: bytes | None, name: str, version: str) -> InferBody:
    """Raises HttpRefused for a body that is not such a request."""
    size = _header_size(header_length, len(body))
    found = json_of(body[:size] if size < len(body) else body)
    request = v2.ModelInferRequest(
        model_name=name, model_version=version, id=_text(found.get("id", ""), "id")
    )
    parameters = _object(found.get("parameters", {}), "parameters")
    all_binary = parameters.pop(BINARY_OUTPUT, False)
    _set_parameters(request.parameters, parameters, "parameters")
    raw = _add_inputs(request, found.get("inputs"), memoryview(body)[size:])
    binary = {}
    for output in _objects(found.get("outputs", []), "outputs"):
        wanted = _object(output.get("parameters", {}), "outputs")
        tensor = request.outputs.add(name=_text(output.get("name", ""), "outputs"))
        binary[tensor.name] = bool(wanted.pop(BINARY, all_binary))
        _set_parameters(tensor.parameters, wanted, f"outputs[{tensor.name[:LONGEST_FIELD]}]")
    pieces: list[Content] = [request.SerializeToString()]
    for content in raw:
        pieces += (RAW, varint(len(content)), content)
    return InferBody(b"".join(pieces), binary, bool(all_binary))


class InferBody:
    """The serialized request, and which outputs are returned as bytes."""

    __slots__ = ("_all", "_binary", "data")

    def __init__(self, data: bytes, binary: dict[str, bool], all_binary: bool) -> None:
        self.data = data
        self._binary = binary
        self._all = all_binary

    def as_bytes(self, output: str) -> bool:
        return self._binary.get(output, self._all)


NOTHING_ASKED = InferBody(b"", {}, False)


def infer_response(response: Any, asked: InferBody) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if bytes of tensors follow it."""
    outputs, raw = [], []
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if asked.as_bytes(tensor.name):
            output["parameters"] = {BINARY_SIZE: len(content)}
            raw.append(content)
        else:
            output["data"] = _values(tensor.datatype, content)
        outputs.append(output)
    found: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        found["id"] = response.id
    found["parameters"] = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in sorted(response.parameters.items())
    }
    found["outputs"] = outputs
    head = json_bytes(found)
    return (b"".join((head, *raw)), len(head)) if raw else (head, None)


def plain_message(message: Any) -> dict[str, Any]:
    """Every field by its name in the .proto file. Integers stay numbers, where protobuf's own JSON
    writes strings: Triton's clients read numbers."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and not message.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            value_field = field.message_type.fields_by_name["value"]
            if entries:
                plain = {key: _plain(entries[key], value_field) for key in sorted(entries)}
                found[field.name] = plain
        elif field.is_repeated:
            found[field.name] = [_plain(one, field) for one in getattr(message, field.name)]
        elif field.message_type is None or message.HasField(field.name):
            found[field.name] = _plain(getattr(message, field.name), field)
    return found


def _plain(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain_message(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return int(value) if field.cpp_type in _INTEGERS else value


def _add_inputs(request: Any, given: Any, rest: memoryview) -> list[Content]:
    """Adds the tensors; returns their raw contents, empty when the JSON has them."""
    inputs = _objects(given, "inputs")
    if len(inputs) > MOST_INPUTS:
        text = f"{len(inputs)} inputs; the limit is {MOST_INPUTS}"
        raise HttpRefused(400, "TOO_MANY_INPUTS", text, "inputs")
    raw: list[Content] = []
    at, elements = 0, 0
    for one in inputs:
        name = _text(one.get("name", ""), "inputs")
        field = f"inputs[{name[:LONGEST_FIELD]}]"
        shape = one.get("shape")
        if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
            raise HttpRefused(400, "SHAPE_MALFORMED", "shape is a list of whole numbers", field)
        tensor = request.inputs.add(
            name=name, datatype=_text(one.get("datatype", ""), field), shape=shape
        )
        parameters = _object(one.get("parameters", {}), field)
        size = parameters.pop(BINARY_SIZE, None)
        _set_parameters(tensor.parameters, parameters, field)
        if size is not None:
            if not _is_size(size) or size > len(rest) - at:
                text = f"{BINARY_SIZE} is {size!r:.32}, {len(rest) - at} bytes are left"
                raise HttpRefused(400, "BINARY_SIZE", text, field)
            raw.append(rest[at : at + size])
            at += size
            continue
        values = list(_flat(one.get("data", []), field))
        elements += len(values)
        if elements > MOST_ELEMENTS:
            text = f"a request may have {MOST_ELEMENTS} elements in all its inputs"
            raise HttpRefused(400, "TOO_MANY_ELEMENTS", text, field)
        kind = parameters.get("content_type")
        coded = name != "text" or kind == "base64"
        tensor.contents.bytes_contents.extend(_element(v, coded, field) for v in values)
        raw.append(b"")
    if at != len(rest):
        text = f"{len(rest) - at} bytes follow the last tensor"
        raise HttpRefused(400, "BINARY_SIZE", text, "inputs")
    if not any(raw):
        return []
    if elements:  # one request may mix both forms, but the message takes only one
        for index, tensor in enumerate(request.inputs):
            if tensor.contents.bytes_contents:
                raw[index] = _packed(tensor.contents.bytes_contents)
                tensor.ClearField("contents")
    return raw


def _packed(elements: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _element(value: Any, coded: bool, field: str) -> bytes:
    """A text is sent as UTF-8. Content that is not text (a picture, a sound) is base64, in a string
    or as {"b64": ...}."""
    if isinstance(value, dict) and value.keys() == {"b64"}:
        value, coded = value["b64"], True
    if not isinstance(value, str):
        text = 'an element is a string, or {"b64": "..."}'
        raise HttpRefused(400, "WRONG_ELEMENT", text, field)
    try:
        return base64.b64decode(value, validate=True) if coded else value.encode()
    except (binascii.Error, ValueError) as error:  # ValueError: a lone surrogate
        what = "base64" if coded else "UTF-8"
        text = f"not {what}: {error}"
        raise HttpRefused(400, "ELEMENT_MALFORMED", text[:120], field) from None


def _flat(data: Any, field: str) -> Iterable[Any]:
    """The elements of a list of lists in row-major order, of any depth that the JSON parser
    reads."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        else:
            yield value


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "FP32":
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    values, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + length].decode("utf-8", "replace"))
        at += 4 + length
    return values


def _set_parameters(into: Any, given: dict[str, Any], field: str) -> None:
    for name, value in given.items():
        parameter = into[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and abs(value) < 1 << 63:
            parameter.int64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif isinstance(value, str):
            parameter.string_param = _text(value, field)
        else:
            text = f"{name[:LONGEST_FIELD]!r} is neither text, number nor truth"
            raise HttpRefused(400, "PARAMETER_MALFORMED", text, field)


def _header_size(text: bytes | None, body: int) -> int:
    if text is None:
        return body
    if not text.isdigit() or len(text) > 12 or int(text) > body:
        message = f"{text[:32].decode('latin-1')} is not a length within the body of {body} bytes"
        raise HttpRefused(400, "HEADER_LENGTH", message, "Inference-Header-Content-Length")
    return int(text)


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HttpRefused(400, "JSON_MALFORMED", "a JSON object is needed", field)
    return dict(value)


def _objects(value: Any, field: str) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise HttpRefused(400, "JSON_MALFORMED", "a list of JSON objects is needed", field)
    return value


def _text(value: Any, field: str) -> str:
    """Raises HttpRefused for a value that is not text, or that UTF-8 cannot encode."""
    try:
        if isinstance(value, str) and value.encode():
            return value
    except UnicodeEncodeError:
        value = None
    if value == "":
        return ""
    raise HttpRefused(400, "JSON_MALFORMED", "a text is needed", field)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 40
