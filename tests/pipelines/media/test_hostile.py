"""Files made to cost work: each is refused within a bounded number of steps, in little memory."""

from __future__ import annotations

import tracemalloc

import pytest

from pipelines.errors import BadInput
from pipelines.media.decode import InputLimits, decode
from pipelines.types import Modality, Part
from tests.support import media_bytes as made

SIZE = 4 << 20
FILES: dict[str, tuple[bytes, Modality]] = {
    "fill bytes before a marker": (b"\xff\xd8\xff" + b"\xff" * SIZE, "image"),
    "empty segments": (b"\xff\xd8" + b"\xff\xe1\0\2" * (SIZE // 4), "image"),
    "syncs without a frame": (b"\xff\xfb\x90\x44" + b"\xff\xe2" * (SIZE // 2), "audio"),
    "smallest frames": ((b"\xff\xf3\x14\xc4" + bytes(20)) * (SIZE // 24), "audio"),
    "empty tags": (b"ID3\4\0\0\0\0\0\0" * (SIZE // 10), "audio"),
    "empty pages": (
        b"".join(made.ogg_pages("OPUS")[:2]) + (b"OggS" + bytes(23)) * (SIZE // 27),
        "audio",
    ),
    "empty chunks": (b"RIFF\0\0\0\0WAVE" + b"abcd\0\0\0\0" * (SIZE // 8), "audio"),
    "comments of markup": (b"<!---->" * (SIZE // 7), "image"),  # the regex once backtracked
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_refused_in_little_memory(name: str) -> None:
    data, kind = FILES[name]
    tracemalloc.start()
    try:
        with pytest.raises(BadInput):
            decode(Part(kind, data), "parts[0]", InputLimits())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * SIZE
