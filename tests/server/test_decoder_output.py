"""The decoders' output to standard error is limited, however many broken files arrive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from server.replica.decoder_output import LONGEST_LINE, MOST_LINES, PERIOD_S, LineLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_few_lines_a_period_pass_and_the_rest_are_counted() -> None:
    written: list[str] = []
    clock = Clock()
    limit = LineLimit(written.append, lambda: ["row-1"], clock)
    for number in range(1000):
        limit.feed(f"error {number}\n".encode())
    assert len(written) == MOST_LINES and limit.dropped == 1000 - MOST_LINES
    assert written[0] == "decoder: error 0 (decoding row-1)\n"
    clock.now += PERIOD_S
    limit.feed(b"later\n")
    assert written[-2:] == [
        f"decoders: {1000 - MOST_LINES} more lines were dropped\n",
        "decoder: later (decoding row-1)\n",
    ]


def test_lines_come_in_pieces_and_are_bounded_and_printable() -> None:
    written: list[str] = []
    limit = LineLimit(written.append, tuple, Clock())
    limit.feed(b"one")
    limit.feed(b" line\n\x1b[31m\xff\n\n")
    for _ in range(100):
        limit.feed(b"x" * 65_536)  # never ends
    limit.feed(b"\n")
    assert written[0] == "decoder: one line\n" and "\x1b" not in written[1]
    assert len(written[2]) < LONGEST_LINE + 20 and len(written) == 3


FLOOD = """
import os, sys
from server.replica.decoder_output import limit_native_output
limit_native_output()
from pipelines.errors import BadInput
from pipelines.media.decode import InputLimits, decode
from pipelines.types import Part
from tests.support import media_bytes as made

whole = bytearray(made.without_xing(made.mp3(3.0, 44_100)))
for at in range(60, len(whole), 37):  # damage within the frames, their headers left alone
    if whole[at : at + 1] != b"\\xff":
        whole[at] ^= 0x55
for _ in range(20):
    try:
        decode(Part("audio", bytes(whole)), "parts[0]", InputLimits())
    except BadInput:
        pass
os.write(2, b"flood\\n" * 100_000)
print("python still writes", file=sys.stderr)
"""


def test_flood_of_a_decoder_does_not_reach_standard_error() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FLOOD], capture_output=True, text=True, check=True, cwd=root
    )
    lines = done.stderr.splitlines()
    assert "python still writes" in lines
    assert 1 < len(lines) <= MOST_LINES + 2
