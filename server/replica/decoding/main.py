"""The process from which decoders are forked, and the work of a decoder.

    python -P server/child_process.py server.replica.decoding.main --fd N

It imports what decoding needs, and never torch. Then it starts a decoder whenever the replica asks
for one: a copy of itself, ready in milliseconds, that enters its sandbox before it reads its first
byte. It has one thread, so that a fork copies everything. A part arrives in the arena, its decoded
form goes back there, and only short messages pass over the socket.
"""

from __future__ import annotations

import argparse
import codecs
import gc
import importlib
import io
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media import packed
from pipelines.media.decode import Decoded, DecodePart, decode
from pipelines.media.limits import InputLimits
from pipelines.media.sniff import IMAGE_FORMATS
from pipelines.types import Part
from server.replica.decoding import sandbox
from server.replica.decoding.arena import Arena, aligned
from server.replica.shortage import short_of_memory

Decode = Callable[[Part, str], Decoded]  # a DecodePart whose limits are set
MESSAGE_BYTES = 1 << 16
LONGEST_ERROR = 2_000  # characters of an error message; a reply must fit into MESSAGE_BYTES
# Pillow imports these only when a picture needs them, and a decoder cannot open files.
_LATE = (
    "BmpImagePlugin GifImagePlugin JpegImagePlugin MpoImagePlugin PngImagePlugin TiffImagePlugin "
    "WebPImagePlugin ExifTags ImageCms ImageColor ImageFilter ImageMath ImagePalette"
).split()
# Files that Pillow may look up while it reads metadata; a decoder cannot open them.
_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252")


def main(argv: Sequence[str] | None = None, decode_part: DecodePart = decode) -> None:
    parser = argparse.ArgumentParser(prog="server.replica.decoding.main")
    parser.add_argument("--fd", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args(argv).fd)
    sandbox.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the front to handle
    warm()
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return  # the replica is gone
        asked = json.loads(message)
        if "wait" in asked:
            control.send(json.dumps({"status": _ended(asked["wait"])}).encode())
        else:
            _fork(control, asked, descriptors, decode_part)


def _ended(pid: int) -> int:
    """The wait status of a decoder that has ended; 0 for one that this process did not start."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def warm() -> None:
    """Decode one part of each kind, so that a decoder has loaded and initialised everything it will
    need."""
    for name in _LATE:
        importlib.import_module(f"PIL.{name}")
    for name in _ENCODINGS:
        codecs.lookup(name)
    limits = InputLimits(min_audio_s=0.0)
    for format in IMAGE_FORMATS:
        for mode in ("RGB", "P"):
            if mode == "RGB" or format not in ("JPEG", "WEBP"):
                encoded = io.BytesIO()
                Image.new(mode, (8, 8), 7).save(encoded, format)
                decode(Part("image", encoded.getvalue()), "", limits)
    wave = np.full(400, 0.1, dtype=np.float32)
    for format, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        encoded = io.BytesIO()
        soundfile.write(encoded, wave, 8000, format=format, subtype=subtype)
        decode(Part("audio", encoded.getvalue()), "", limits)


def _fork(
    control: socket.socket, asked: Any, descriptors: Sequence[int], decode_part: DecodePart
) -> None:
    """Starts a decoder and sends its process id with a pidfd, through which it can be ended without
    hitting another process that got the same id."""
    pid = os.fork()
    if pid == 0:
        control.close()
        _decoder(asked, descriptors, decode_part)
    for descriptor in descriptors:
        os.close(descriptor)
    handle = os.pidfd_open(pid)
    socket.send_fds(control, [json.dumps({"pid": pid}).encode()], [handle])
    os.close(handle)


# ---- a decoder -----------------------------------------------------------------------------------


def _decoder(asked: Any, descriptors: Sequence[int], decode_part: DecodePart) -> None:
    """Runs a decoder; never returns."""
    link, memory = descriptors
    sandbox.die_with_parent()
    arena = Arena(asked["inputs"], asked["outputs"], memory)
    os.close(memory)
    limits = InputLimits(**asked["limits"])

    def within(part: Part, field: str) -> Decoded:
        return decode_part(part, field, limits)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    confined = sandbox.shut_in(pages * resource.getpagesize() + asked["heap"])
    os.write(link, json.dumps({"sandbox": confined}).encode())
    while request := os.read(link, MESSAGE_BYTES):
        found = _answers(json.loads(request), arena, within)
        os.write(link, json.dumps(found).encode())
    os._exit(0)


def _answers(asked: Any, arena: Arena, decode_part: Decode) -> list[dict[str, Any]]:
    """One answer for each part, up to the first that cannot be decoded."""
    found: list[dict[str, Any]] = []
    at, offset = 0, asked["offset"]
    for number, one in enumerate(asked["parts"]):
        arena.turn = number
        part = packed.part_of(one["part"], bytes(arena.view[at : at + one["size"]]))
        answer, size = _answer(part, one["field"], offset, arena, decode_part)
        found.append(answer)
        if "decoded" not in answer:
            break
        at, offset = at + one["size"], aligned(offset + size)
    return found


def _answer(
    part: Part, field: str, offset: int, arena: Arena, decode_part: Decode
) -> tuple[dict[str, Any], int]:
    """(the reply, bytes written). It catches every exception, because decoders may raise anything
    on a stranger's bytes, and the replica must receive it."""
    try:
        values, block = packed.pack(decode_part(part, field))
        return {"decoded": values}, _written(block, arena, offset)
    except Exception as error:
        if short_of_memory(error):
            return {"memory": _text(error)}, 0
        if isinstance(error, BadInput):
            return {"refused": [error.field, error.reason, _text(error.message)]}, 0
        return {"error": f"{type(error).__name__}: {_text(error)}"}, 0


def _written(block: NDArray[Any] | bytes, arena: Arena, offset: int) -> int:
    """Copies a block into the arena; returns its size in bytes. Raises ValueError beyond the end,
    which is larger than anything a row may decode to."""
    if isinstance(block, bytes):
        arena.output(offset, len(block))[:] = block
        return len(block)
    target = np.frombuffer(arena.output(offset, block.nbytes), block.dtype)
    np.copyto(target.reshape(block.shape), block)
    return block.nbytes


def _text(error: object) -> str:
    return str(error)[:LONGEST_ERROR]


if __name__ == "__main__":
    main()
