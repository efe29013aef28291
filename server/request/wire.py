"""An example whose uploads are put in place, written to the wire in one pass.

Setting `Part.data` would copy each upload into the message, and writing the message once more. Here
each is copied once, into the bytes that go to the replica.
"""

from __future__ import annotations

from collections.abc import Mapping

from proto import inference_pb2 as pb

LENGTH_DELIMITED = 2
PARTS = bytes([pb.Example.PARTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
DATA = bytes([pb.Part.DATA_FIELD_NUMBER << 3 | LENGTH_DELIMITED])


def with_contents(example: pb.Example, contents: Mapping[int, bytes]) -> bytes:
    """The serialized example with `contents[i]` as the data of part i; spoils `example`."""
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
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
