"""Counts the values in a message or a JSON text before it is parsed. A parser makes an object of
each: 16 MiB of parts of two bytes became 913 MiB, and 16 MiB of lists of two held the event loop
for 1.5 s.

A message that is too small to have that many is not looked at. Of a larger one the fields are
walked and not their contents, so that pictures and sounds cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.request.wire import LENGTH_DELIMITED

# More than any limit of a request needs: 4,096 elements, 1,000 items of feedback. 10 ms to count.
MOST_VALUES = 16_384
_VARINT, _FIXED_64, _FIXED_32 = 0, 1, 5
_GROUPS = (3, 4)
# Numbers that may take one byte each on the wire and eight in memory.
_PACKED: Final = "packed"
_SMALL = frozenset(
    (
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_SINT32,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    )
)


def has_too_many_fields(data: bytes, kind: Descriptor) -> bool:
    """Whether a message of this type has more than MOST_VALUES fields, with those of the messages
    in it and the whole numbers in its lists. A malformed one is counted as far as it can be read.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    if len(data) <= MOST_VALUES:
        return False  # a field has two bytes at least
    left = MOST_VALUES
    ranges = [(0, len(data), kind)]
    while ranges:
        at, end, kind = ranges.pop()
        inner = _inner(kind)
        try:
            while at < end:
                left -= 1
                if left < 0:
                    return True
                tag, at = data[at], at + 1
                if tag > 0x7F:
                    tag, at = _varint(data, at - 1)
                form = tag & 7
                if form == LENGTH_DELIMITED:
                    size, at = data[at], at + 1
                    if size > 0x7F:
                        size, at = _varint(data, at - 1)
                    within = inner.get(tag >> 3) if inner else None
                    if within is _PACKED:
                        left -= min(size, end - at)
                    elif within is not None:
                        ranges.append((at, min(at + size, end), within))
                    at += size
                elif form == _VARINT:
                    _, at = _varint(data, at)
                elif form == _FIXED_64:
                    at += 8
                elif form == _FIXED_32:
                    at += 4
                elif form not in _GROUPS:
                    break
        except IndexError:  # malformed: the parser refuses it
            continue
    return left < 0


def has_too_many_values(text: str) -> bool:
    """Whether a JSON text has more than MOST_VALUES values: all but the first follow a comma or a
    bracket outside of a string."""
    if len(text) <= MOST_VALUES:
        return False
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    if text.count('"') > 4 * MOST_VALUES:  # two strings a value, where the other is its name
        return True
    outside = "".join(text.split('"')[::2])
    return sum(map(outside.count, ",[{")) > MOST_VALUES


@cache
def _inner(kind: Descriptor) -> Mapping[int, Descriptor | str]:
    """Field number -> the type of the message in it, or _PACKED; other fields are left out."""
    found: dict[int, Descriptor | str] = {}
    for field in kind.fields:
        if field.message_type is not None:
            found[field.number] = field.message_type
        elif field.is_repeated and field.type in _SMALL:
            found[field.number] = _PACKED
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at this place, and the place after it. Raises IndexError if it does not end, or
    not within the ten bytes that 64 bits take."""
    number = 0
    for index in range(10):
        byte = data[at + index]
        number |= (byte & 0x7F) << 7 * index
        if byte <= 0x7F:
            return number, at + index + 1
    raise IndexError
