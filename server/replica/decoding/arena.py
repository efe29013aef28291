"""The memory that a replica and one of its decoders share: what is to be decoded, and the result.

An anonymous file of fixed size, of which only pages that were written take memory. It is sealed, so
that neither side can shrink it under the other. The decoder can write into it at any time, so
whatever the replica takes from it is checked before it is used, and sizes never come from it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable

KEPT_BYTES = 16 << 20  # what stays after a row, for the next one; the rest is given back
ALIGNMENT = 64  # of each block, in bytes
_TURN = struct.Struct("<I")


class Arena:
    """`[0, inputs)` is written by the replica, `[inputs, inputs + outputs)` by the decoder; behind
    them is the number of the part that the decoder is at work on."""

    def __init__(self, inputs: int, outputs: int, descriptor: int | None = None) -> None:
        """Sizes in bytes. `descriptor`: one that exists already, which stays the caller's. Raises
        OSError."""
        self.inputs, self.outputs = _pages(inputs), _pages(outputs)
        size = self.inputs + self.outputs + mmap.PAGESIZE
        self.descriptor = _sealed(size) if descriptor is None else descriptor
        self._map = mmap.mmap(self.descriptor, size)
        self.view = memoryview(self._map)
        # The highest bytes that were written since `trim`.
        self._put_bytes = self._output_bytes = 0

    @property
    def turn(self) -> int:
        (number,) = _TURN.unpack_from(self.view, self.inputs + self.outputs)
        return int(number)

    @turn.setter
    def turn(self, number: int) -> None:
        _TURN.pack_into(self.view, self.inputs + self.outputs, number)

    def put(self, blocks: Iterable[bytes]) -> None:
        """One behind the other, without gaps. Raises ValueError beyond the end."""
        at = 0
        for data in blocks:
            if at + len(data) > self.inputs:
                raise ValueError(f"more than {self.inputs} bytes")
            self.view[at : at + len(data)] = data
            at += len(data)
        self._put_bytes = max(self._put_bytes, at)

    def output(self, offset: int, size: int) -> memoryview:
        """Raises ValueError beyond the end."""
        if offset < 0 or size < 0 or offset + size > self.outputs:
            raise ValueError(f"{size} bytes at {offset} of {self.outputs}")
        start = self.inputs + offset
        self._output_bytes = max(self._output_bytes, offset + size)
        return self.view[start : start + size]

    def trim(self) -> None:
        """Gives back what large rows took. What it holds is lost."""
        for start, used in ((0, self._put_bytes), (self.inputs, self._output_bytes)):
            beyond = _pages(used) - KEPT_BYTES
            if beyond > 0:
                self._map.madvise(mmap.MADV_REMOVE, start + KEPT_BYTES, beyond)
        self._put_bytes = self._output_bytes = 0


def aligned(size: int) -> int:
    """Where the block behind one of this size begins."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _sealed(size: int) -> int:
    descriptor = os.memfd_create("trefoil-decoding", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
