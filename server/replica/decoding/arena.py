"""The memory that a replica shares with one of its decoders: the input, and the decoded result.

It is an anonymous file of fixed size, of which only written pages take memory. It is sealed, so
that neither side can shrink it while the other uses it. The decoder can write to it at any time, so
the replica checks whatever it takes from it, and never takes sizes from it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable

KEPT_BYTES = 16 << 20  # what stays allocated after a row, for the next one; the rest is returned
ALIGNMENT = 64  # of each block, in bytes
_TURN = struct.Struct("<I")


class Arena:
    """The replica writes `[0, inputs)`, the decoder `[inputs, inputs + outputs)`; after them comes
    the number of the part that the decoder is working on."""

    def __init__(self, inputs: int, outputs: int, descriptor: int | None = None) -> None:
        """Sizes in bytes. `descriptor`: an existing one, which remains the caller's. Raises
        OSError."""
        self.inputs, self.outputs = _pages(inputs), _pages(outputs)
        size = self.inputs + self.outputs + mmap.PAGESIZE
        self.descriptor = _sealed(size) if descriptor is None else descriptor
        self._map = mmap.mmap(self.descriptor, size)
        self.view = memoryview(self._map)
        # The highest offsets written since `trim`.
        self._put_bytes = self._output_bytes = 0

    @property
    def turn(self) -> int:
        (number,) = _TURN.unpack_from(self.view, self.inputs + self.outputs)
        return int(number)

    @turn.setter
    def turn(self, number: int) -> None:
        _TURN.pack_into(self.view, self.inputs + self.outputs, number)

    def put(self, blocks: Iterable[bytes]) -> None:
        """Write blocks one after the other, without gaps. Raises ValueError beyond the end."""
        at = 0
        for data in blocks:
            if at + len(data) > self.inputs:
                raise ValueError(f"more than {self.inputs} bytes")
            self.view[at : at + len(data)] = data
            at += len(data)
        self._put_bytes = max(self._put_bytes, at)

    def output(self, offset: int, size: int) -> memoryview:
        """A view of the output. Raises ValueError beyond the end."""
        if offset < 0 or size < 0 or offset + size > self.outputs:
            raise ValueError(f"{size} bytes at {offset} of {self.outputs}")
        start = self.inputs + offset
        self._output_bytes = max(self._output_bytes, offset + size)
        return self.view[start : start + size]

    def trim(self) -> None:
        """Return the memory that large rows used. The content is lost."""
        for start, used in ((0, self._put_bytes), (self.inputs, self._output_bytes)):
            beyond = _pages(used) - KEPT_BYTES
            if beyond > 0:
                self._map.madvise(mmap.MADV_REMOVE, start + KEPT_BYTES, beyond)
        self._put_bytes = self._output_bytes = 0


def aligned(size: int) -> int:
    """The offset of the block that follows a block of this size."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _sealed(size: int) -> int:
    descriptor = os.memfd_create("trefoil-decoding", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
