"""Parses requests one layer at a time, so that one bad example does not affect the others.

protobuf refuses a whole message if any string in it is not UTF-8. The classes here have the same
field numbers with every string and every nested message as plain bytes: the wire format of both is
the same. The front also gets each example as the bytes that it forwards.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from proto import inference_pb2 as pb
from server.request.status import Refused, bad_input
from server.request.value_limit import MOST_VALUES, has_too_many_fields
from server.types import Fault

_Field = descriptor_pb2.FieldDescriptorProto
_AS = {
    _Field.TYPE_STRING: _Field.TYPE_BYTES,
    _Field.TYPE_MESSAGE: _Field.TYPE_BYTES,
    _Field.TYPE_ENUM: _Field.TYPE_INT32,
}
_LOOSE = (pb.PredictRequest, pb.GenerateRequest, pb.Example, pb.Part, pb.FeedbackRequest)


def _loose_classes() -> dict[str, type[message.Message]]:
    """The messages above, rebuilt with loose types in a separate descriptor pool."""
    file = descriptor_pb2.FileDescriptorProto(name="trefoil/lazy.proto", syntax="proto3")
    file.package = "trefoil.v1"
    for strict in _LOOSE:
        loose = file.message_type.add()
        strict.DESCRIPTOR.CopyToProto(loose)
        del loose.oneof_decl[:], loose.nested_type[:]
        for field in loose.field:
            field.ClearField("oneof_index")
            if field.type in _AS:
                field.type = _AS[field.type]
                field.ClearField("type_name")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        strict.DESCRIPTOR.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"trefoil.v1.{strict.DESCRIPTOR.name}")
        )
        for strict in _LOOSE
    }


Message = TypeVar("Message", bound=message.Message)

_CLASSES = _loose_classes()


def parse_predict(data: bytes) -> Any:
    """A PredictRequest whose examples and strings are bytes. Raises Refused when malformed."""
    return _parse("PredictRequest", data, "request")


def request_id_of(data: bytes) -> str:
    """The id to repeat in a refusal; "" if it cannot be read either."""
    try:
        return text_of(parse_predict(data).request_id, "request_id")
    except Refused:
        return ""


def parse_generate(data: bytes) -> Any:
    return _parse("GenerateRequest", data, "request")


def parse_feedback(data: bytes) -> Any:
    """A FeedbackRequest whose items are bytes. Raises Refused when malformed."""
    return _parse("FeedbackRequest", data, "request")


def message_of(kind: type[Message], data: bytes, field: str = "request") -> Message:
    """A whole message of one of this server's services. Raises Refused."""
    _check_count(data, kind, field)
    try:
        parsed: Message = kind.FromString(data)
    except message.DecodeError:
        text = f"the bytes cannot be read as a {kind.DESCRIPTOR.full_name}"
        raise Refused(bad_input(field, "MALFORMED", text)) from None
    return parsed


def text_of(data: bytes, field: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refused(not_utf8(field, error)) from None


def example_of(data: bytes, field: str) -> pb.Example:
    """The example. Raises Refused, naming the part and the field that cannot be read."""
    _check_count(data, pb.Example, field)
    try:
        example: pb.Example = pb.Example.FromString(data)
    except message.DecodeError:
        raise Refused(_culprit(data, field)) from None
    return example


def _culprit(data: bytes, field: str) -> Fault:
    """The fault that names the string of an unreadable example that is not UTF-8."""
    example = _parse("Example", data, field)
    for index, raw in enumerate(example.parts):
        where = f"{field}.parts[{index}]"
        part = _parse("Part", raw, where)
        for name in ("text", "id", "mime_type", "upload_id", "sha256"):
            fault = _unreadable(getattr(part, name), f"{where}.{name}")
            if fault is not None:
                return fault
    for entry in example.slices:
        fault = _unreadable(entry, f"{field}.slices")
        if fault is not None:
            return fault
    return bad_input(field, "MALFORMED", "the example cannot be read as a trefoil.v1.Example")


def _unreadable(data: bytes, field: str) -> Fault | None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not_utf8(field, error)
    return None


def not_utf8(field: str, error: UnicodeDecodeError) -> Fault:
    return bad_input(
        field, "TEXT_NOT_UTF8", f"byte {error.start} of {len(error.object)} is not valid UTF-8"
    )


def _check_count(data: bytes, kind: type[message.Message], field: str) -> None:
    if has_too_many_fields(data, kind.DESCRIPTOR):
        text = f"it has more than {MOST_VALUES:,} fields and numbers; send fewer"
        raise Refused(bad_input(field, "TOO_MANY_FIELDS", text))


def _parse(name: str, data: bytes, field: str) -> Any:
    return message_of(_CLASSES[name], data, field)
