"""Converts Open Inference Protocol tensors to examples, and answers to tensors.

A BYTES tensor in `raw_input_contents` is a sequence of elements, each a 4-byte little-endian length
and that many bytes. In `contents.bytes_contents` there are no lengths. Every length is compared
with the remaining bytes before it is used.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from math import prod
from typing import Any

from proto import inference_pb2 as pb
from server.request.lazy_parse import text_of
from server.request.modalities import MODALITIES
from server.request.status import Refused, bad_input
from server.request.value_limit import MOST_VALUES, has_too_many_values
from server.types import Answer, Fault

MOST_INPUTS = 64
MOST_ELEMENTS = 4096  # elements in all inputs of a request together
SHARED_MEMORY = "shared_memory_region"
MOST_DIMENSIONS = 4
ON_TRUNCATION = {"answer": pb.ANSWER, "refuse": pb.REFUSE}
LONGEST_NAME = 64  # characters of a caller's name that an error message repeats

Places = dict[str, str]  # examples[0].parts[1] -> inputs[image][0]


def examples_of(request: Any) -> tuple[list[pb.Example], Places]:
    """One example for each row of the tensors, with parts in the order of the inputs.

    The first dimension counts rows; the product of the others is the number of elements of that
    input in each row. An empty element means that its row lacks that input, so rows with different
    inputs share one request.
    """
    if not request.inputs:
        raise Refused(bad_input("inputs", "EMPTY", f"give at least one of {', '.join(MODALITIES)}"))
    _check_contents(request)
    examples: list[pb.Example] = []
    places: Places = {}
    left = MOST_ELEMENTS
    for position, tensor in enumerate(request.inputs):
        field = f"inputs[{tensor.name[:LONGEST_NAME]}]"
        elements = _elements(request, position, field, left)
        left -= len(elements)
        rows = tensor.shape[0]
        if not examples:
            examples = [pb.Example() for _ in range(rows)]
        if len(examples) != rows:
            text = f"{rows} rows; the first input has {len(examples)}"
            raise Refused(bad_input(field, "ROWS_DIFFER", text))
        each = len(elements) // rows
        for index, element in enumerate(elements):
            if element:
                row = index // each
                places[f"examples[{row}].parts[{len(examples[row].parts)}]"] = f"{field}[{index}]"
                _add_part(examples[row], tensor, element, f"{field}[{index}]")
    for row, example in enumerate(examples):
        if not example.parts:
            text = f"row {row} has neither {' nor '.join(MODALITIES)}"
            raise Refused(bad_input("inputs", "EMPTY", text))
    return examples, places


def bytes_elements(raw: bytes, count: int, field: str) -> list[bytes]:
    """The elements of a raw BYTES tensor; raises Refused unless exactly `count` fill it."""
    elements, at = [], 0
    for index in range(count):
        if len(raw) - at < 4:
            raise Refused(_broken(field, f"element {index} of {count} has no length"))
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if length > len(raw) - at:
            text = f"element {index} claims {length} bytes, {len(raw) - at} are left"
            raise Refused(_broken(field, text))
        elements.append(raw[at : at + length])
        at += length
    if at != len(raw):
        raise Refused(_broken(field, f"{len(raw) - at} bytes follow the last element"))
    return elements


def bytes_tensor(elements: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def classification(answer: Answer, top: int, order: Sequence[str]) -> list[bytes]:
    """Triton's classification extension: `score:index:label`, best first."""
    place = {label: index for index, label in enumerate(order)}
    return [
        f"{score.probability:f}:{place[score.label]}:{score.label}".encode()
        for score in answer.scores[:top]
    ]


def check_output(output: Any) -> None:
    """Raises Refused, with the output's name, for a requested form of output that is not
    supported."""
    field = f"outputs[{output.name}]"
    if SHARED_MEMORY in output.parameters:
        raise Refused(_shared_memory(field, "take it from the response"))
    count = output.parameters["classification"].int64_param if output.parameters else 0
    if count < 0 or (count and output.name != "scores"):
        text = f"class_count is {count}; only scores are sorted into classes, by 1 or more"
        raise Refused(bad_input(field, "NO_CLASSES", text))


def _shared_memory(field: str, remedy: str) -> Fault:
    return bad_input(field, "SHARED_MEMORY", f"shared memory is not supported: {remedy}")


def labels_of(parameters: Any) -> list[str]:
    """The request parameter `labels`: a JSON list of strings."""
    if "labels" not in parameters:
        return []
    given = parameters["labels"].string_param
    try:
        labels = None if has_too_many_values(given) else json.loads(given)
    except (ValueError, RecursionError):  # RecursionError: lists nested thousands deep
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        text = f"the parameter is a JSON list of strings, {MOST_VALUES:,} values at most"
        raise Refused(bad_input("parameters[labels]", "LABELS_MALFORMED", text))
    return labels


def on_truncation_of(parameters: Any) -> pb.OnTruncation:
    """The request parameter `on_truncation`: answer, the default, or refuse."""
    given = parameters["on_truncation"].string_param if "on_truncation" in parameters else "answer"
    if given not in ON_TRUNCATION:
        field, choices = "parameters[on_truncation]", " or ".join(ON_TRUNCATION)
        text = f"the parameter is the string {choices}"
        raise Refused(bad_input(field, "UNKNOWN_ON_TRUNCATION", text))
    return ON_TRUNCATION[given]


def _check_contents(request: Any) -> None:
    """Check what concerns all inputs together, once: a request may name thousands of inputs."""
    inputs, raw = request.inputs, request.raw_input_contents
    if len(inputs) > MOST_INPUTS:
        text = f"{len(inputs)} inputs; the limit is {MOST_INPUTS}"
        raise Refused(bad_input("inputs", "TOO_MANY_INPUTS", text))
    # An empty `contents` beside raw contents has no meaning: some clients always set it.
    if raw and any(one.contents.ByteSize() for one in inputs):
        text = "a request uses raw_input_contents or contents, not both"
        raise Refused(bad_input("raw_input_contents", "MIXED_CONTENTS", text))
    if raw and len(raw) != len(inputs):
        text = f"{len(raw)} raw contents for {len(inputs)} inputs"
        raise Refused(bad_input("raw_input_contents", "CONTENTS_MISSING", text))


def _elements(request: Any, position: int, field: str, left: int) -> list[bytes]:
    """`left`: how many more elements the request may have."""
    tensor = request.inputs[position]
    if tensor.name not in MODALITIES:
        text = f"the inputs are {', '.join(MODALITIES)}"
        raise Refused(bad_input(field, "UNKNOWN_INPUT", text))
    if tensor.datatype != "BYTES":
        text = f"{tensor.datatype[:LONGEST_NAME]}, but must be BYTES"
        raise Refused(bad_input(field, "WRONG_DATATYPE", text))
    if SHARED_MEMORY in tensor.parameters:
        raise Refused(_shared_memory(field, "send its contents in the request"))
    count = _count(tensor.shape, field, left)
    given = tensor.contents.bytes_contents
    raw = request.raw_input_contents
    if raw:
        return bytes_elements(raw[position], count, field)
    if len(given) != count:
        text = f"{len(given)} elements, but the shape has {count}"
        raise Refused(bad_input(field, "SHAPE_MISMATCH", text))
    return list(given)


def _count(shape: Sequence[int], field: str, left: int) -> int:
    if not 1 <= len(shape) <= MOST_DIMENSIONS or any(size < 1 for size in shape):
        text = f"shape {list(shape[: MOST_DIMENSIONS + 1])}; the first dimension counts rows"
        text += f", there are 1 to {MOST_DIMENSIONS} and all are at least 1"
        raise Refused(bad_input(field, "SHAPE_MALFORMED", text))
    count = prod(shape)
    if count > left:
        text = f"shape {list(shape)} has {count} elements; a request may have {MOST_ELEMENTS}"
        text += " in all its inputs"
        raise Refused(bad_input(field, "TOO_MANY_ELEMENTS", text))
    return count


def _add_part(example: pb.Example, tensor: Any, element: bytes, field: str) -> None:
    part = example.parts.add(modality=MODALITIES[tensor.name])
    if tensor.name == "text":
        part.text = text_of(element, field)
        return
    part.data = element
    # Some clients send "np" or "str" here; only a MIME type describes the content.
    mime = tensor.parameters["content_type"].string_param if tensor.parameters else ""
    if "/" in mime:
        part.mime_type = mime


def _broken(field: str, message: str) -> Any:
    return bad_input(field, "BYTES_MALFORMED", message)
