"""Writes an example with its uploads inserted to the wire format in one pass.

Setting `Part.data` would copy each upload into the message, and serializing the message would copy
it again. Here each upload is copied once, into the bytes that go to the replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from proto import inference_pb2 as pb

LENGTH_DELIMITED = 2
PARTS = bytes([pb.Example.PARTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
DATA = bytes([pb.Part.DATA_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
TEXT = bytes([pb.Part.TEXT_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
# These fields have the same numbers in PredictRequest and in GenerateRequest.
EXAMPLE = bytes([pb.PredictRequest.EXAMPLES_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
assert pb.PredictRequest.EXAMPLES_FIELD_NUMBER == pb.GenerateRequest.EXAMPLE_FIELD_NUMBER

Content = bytes | memoryview


@dataclass(frozen=True, slots=True)
class LoosePart:
    """A part and its content, which may be a view of a larger buffer. `text`: the content is the
    part's text (it should be UTF-8), otherwise its data."""

    head: pb.Part
    content: Content
    text: bool = False


def request_of_parts(
    head: Message, parts: Sequence[LoosePart], slices: Mapping[str, str] | None = None
) -> bytes:
    """The serialized `head` (a PredictRequest or a GenerateRequest) with one example of these
    parts. Each content is copied once."""
    pieces: list[Content] = []
    for part in parts:
        fields = part.head.SerializeToString() + (TEXT if part.text else DATA)
        fields += varint(len(part.content))
        pieces += (PARTS, varint(len(fields) + len(part.content)), fields, part.content)
    if slices:
        pieces.append(pb.Example(slices=slices).SerializeToString())
    example = sum(map(len, pieces))
    return b"".join((head.SerializeToString(), EXAMPLE, varint(example), *pieces))


def with_contents(example: pb.Example, contents: Mapping[int, bytes]) -> bytes:
    """The serialized example with `contents[i]` as the data of part i; `example` must not be used
    afterwards."""
    pieces: list[bytes] = []
    for index, part in enumerate(example.parts):
        content = contents.get(index)
        if content is None:
            body = part.SerializeToString()
            pieces += (PARTS, varint(len(body)), body)
            continue
        part.ClearField("source")
        head = part.SerializeToString() + DATA + varint(len(content))
        pieces += (PARTS, varint(len(head) + len(content)), head, content)
    example.ClearField("parts")
    pieces.append(example.SerializeToString())
    return b"".join(pieces)


def varint(number: int) -> bytes:
    """Seven bits in each byte, the lowest first; the eighth bit means that more bytes follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
