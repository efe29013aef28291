"""Checks that a file has the format its name declares: safetensors, JSON, text, images and sounds.

Formats that can run code when loaded are refused, whatever the file is called.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, Final

from pipelines.bundle import bounds
from pipelines.bundle.files import Buffer, File
from pipelines.errors import BundleRefused
from pipelines.media.sniff import sniff

# A safetensors header is JSON; the reference reader's own limit is 100 MB.
_MAX_HEADER_BYTES: Final = 100_000_000

_PICKLES: Final = (
    (b"\x80", "a pickle"),
    (b"PK\x03\x04", "a zip archive (torch.save writes pickles into one)"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "an executable"),
    (b"\x1f\x8b", "a gzip file"),
)
_CODE_SUFFIXES: Final = frozenset(
    ".bin .ckpt .dill .dll .h5 .joblib .npy .npz .pickle .pkl .pt .pth".split()
    + ".py .pyc .pyd .so .zip".split()
)
# The format that the first bytes of a media file must have.
_MEDIA: Final = {
    ".jpg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".wav": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
}


def check_format(file: File) -> None:
    """Raises BundleRefused("format") unless the content has the format of the suffix."""
    suffix = os.path.splitext(file.path)[1].lower()
    if suffix in _CODE_SUFFIXES:
        raise BundleRefused(
            "format",
            f"{file.path}: {suffix} files can run code when loaded; bundles hold "
            "weights as .safetensors only",
        )
    complaint = _format_complaint(suffix, file)
    if complaint is None:
        return
    head = bytes(file.content[:8])
    for magic, what in _PICKLES:
        if head.startswith(magic):
            complaint = f"it is {what} under another name"
    raise BundleRefused("format", f"{file.path} is not a {suffix or 'plain'} file: {complaint}")


def _format_complaint(suffix: str, file: File) -> str | None:
    """What is wrong with the content; None if it has the format."""
    if suffix == ".safetensors":
        return _safetensors_complaint(file)
    if suffix in _MEDIA:
        found = sniff(bytes(file.content[:16]))
        good = found is not None and found[1] == _MEDIA[suffix]
        return None if good else "its first bytes are of another format"
    if suffix in {".json", ".txt", ".md"}:
        return _text_complaint(suffix, file)
    return "bundles do not hold this kind of file"


def _safetensors_complaint(file: File) -> str | None:
    if file.size < 10:
        return "too short for a header"
    length = int.from_bytes(file.content[:8], "little")
    if length > min(file.size - 8, _MAX_HEADER_BYTES):
        return f"its header claims {length} bytes, the file has {file.size}"
    return None if file.content[8:9] == b"{" else "its header is not JSON"


def _text_complaint(suffix: str, file: File) -> str | None:
    try:
        text = bytes(file.content).decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if "\0" in text:
        return "it holds NUL characters"
    if suffix == ".json":
        try:
            parse_json(file.path, file.content)
        except BundleRefused as error:
            return error.message
    return None


def parse_json(path: str, content: Buffer | bytes) -> dict[str, Any]:
    """A JSON object with finite numbers, bounded depth and no duplicate keys. Raises
    BundleRefused("format") naming the field."""
    try:
        # NaN and Infinity are not JSON; they are parsed so that the refusal can name them.
        value = json.loads(bytes(content), object_pairs_hook=_once, parse_constant=float)
    except RecursionError:
        too_deep = f"{path} is nested deeper than {bounds.MAX_DEPTH} levels"
        raise BundleRefused("format", too_deep) from None
    except ValueError as error:
        raise BundleRefused("format", f"{path} does not parse as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleRefused("format", f"{path} is not a JSON object")
    bounds.json_shape(path, value)
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {bounds.short(_twice(pairs))!r} appears twice")
    return found


def _twice(pairs: list[tuple[str, object]]) -> str:
    return Counter(key for key, _ in pairs).most_common(1)[0][0]
