"""Reads tensors directly from the hashed bytes, with its own reader of the safetensors layout.

The layout: u64 little-endian header length, a JSON object of name -> {dtype, shape, data_offsets},
then the data, in which the tensors lie end to end without gaps. Nothing is copied; a tensor keeps
its buffer alive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final, TypeGuard

import torch

from pipelines.bundle.files import Buffer, File
from pipelines.bundle.formats import parse_json
from pipelines.errors import BundleRefused

DTYPES: Final = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_CODES: Final = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `begin` and `end` count bytes from the start of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_entries(path: str, content: Buffer) -> list[TensorEntry]:
    """The tensors of a file in storage order.

    Raises BundleRefused("weights") for a wrong header: length, dtype, shape, gaps, overlaps.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise _refused(path, f"its header claims {length} bytes, the file has {len(content)}")
    header = parse_json(path, bytes(content[8 : 8 + length]))
    header.pop("__metadata__", None)
    start = 8 + length
    entries = [_entry(path, name, item, start) for name, item in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = start
    for entry in entries:
        if entry.begin != position:
            raise _refused(path, f"{entry.name} begins at {entry.begin}, expected {position}")
        position = entry.end
    if position != len(content):
        raise _refused(path, f"its tensors end at byte {position} of {len(content)}")
    return entries


def _entry(path: str, name: str, item: object, start: int) -> TensorEntry:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise _refused(path, f"the header entry of {name} is malformed")
    dtype = DTYPES.get(str(item["dtype"]))
    shape, offsets = item["shape"], item["data_offsets"]
    if dtype is None:
        raise _refused(path, f"{name} has the dtype {item['dtype']}; known are {', '.join(DTYPES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _refused(path, f"the header entry of {name} is malformed")
    if offsets[1] - offsets[0] != prod(shape) * dtype.itemsize:
        raise _refused(path, f"{name} has {offsets[1] - offsets[0]} bytes for the shape {shape}")
    return TensorEntry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def read_tensors(file: File) -> dict[str, torch.Tensor]:
    """The tensors of a file, as views over its content. Raises BundleRefused("weights")."""
    entries = read_entries(file.path, file.content)
    return {entry.name: _tensor(file.content, entry) for entry in entries}


def _tensor(content: Buffer, entry: TensorEntry) -> torch.Tensor:
    count = prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    buffer, begin = content, entry.begin
    if begin % entry.dtype.itemsize:  # kernels expect aligned data; most writers align it
        buffer, begin = bytearray(content[entry.begin : entry.end]), 0
    flat = torch.frombuffer(buffer, dtype=entry.dtype, count=count, offset=begin)
    return flat.view(entry.shape)


def refuse_nonfinite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises BundleRefused("weights") naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        low, high = torch.aminmax(tensor)  # one pass, no copy; NaN is returned before any number
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise BundleRefused(
                "weights",
                f"{name} holds NaN or infinite values; the training run or the conversion that "
                "wrote it failed",
            )


def header_bytes(entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> bytes:
    """The length and header of a file holding these tensors in this order."""
    header: dict[str, object] = {}
    position = 0
    for name, dtype, shape in entries:
        end = position + prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A whole file, widest dtype first (so that all are aligned), then by name: equal tensors give
    equal bytes."""
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    head = header_bytes((n, tensors[n].dtype, tuple(tensors[n].shape)) for n in names)
    return b"".join([head, *(raw(tensors[name]) for name in names)])


def raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _refused(path: str, why: str) -> BundleRefused:
    return BundleRefused("weights", f"{path}: {why}; copy or build the bundle again")
