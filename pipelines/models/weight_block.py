"""The weights of a model in one block of memory, which one process fills and others map.

- weights that run as one matrix product lie side by side (text_stack.py), so that joining them
  copies nothing;
- on a CPU the block is an anonymous file, on a GPU one allocation that CUDA IPC exports. Both have
  the same layout, and are exported as JSON values, with the descriptor of the file beside them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from pipelines.models.text_stack import side_by_side

ALIGNED: Final = 256  # bytes: what CUDA's allocator aligns to, and vector loads expect
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor lies: its shape and first byte. All have one dtype."""

    dtype: torch.dtype
    places: Mapping[str, tuple[tuple[int, ...], int]]
    size: int

    @staticmethod
    def of(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> Layout:
        places: dict[str, tuple[tuple[int, ...], int]] = {}
        end = 0
        for group in side_by_side(shapes):
            end = -(-end // ALIGNED) * ALIGNED
            for name in group:
                shape = tuple(shapes[name])
                places[name] = (shape, end)
                end += dtype.itemsize * torch.Size(shape).numel()
        return Layout(dtype, places, max(end, 1))

    def to_values(self) -> Values:
        places = {name: [list(shape), begin] for name, (shape, begin) in self.places.items()}
        name = str(self.dtype).removeprefix("torch.")
        return {"dtype": name, "places": places, "size": self.size}

    @staticmethod
    def from_values(values: Values) -> Layout:
        found = values["places"]
        places = {name: (tuple(shape), int(begin)) for name, (shape, begin) in found.items()}
        return Layout(getattr(torch, values["dtype"]), places, int(values["size"]))

    def views(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a block of bytes."""
        found = {}
        for name, (shape, begin) in self.places.items():
            end = begin + self.dtype.itemsize * torch.Size(shape).numel()
            found[name] = block[begin:end].view(self.dtype).view(shape)
        return found


class WeightBlock(Protocol):
    """The block that a holder keeps. `export` prepares it for one more process."""

    bytes: torch.Tensor  # uint8

    def export(self) -> tuple[Values, list[int]]:
        """(values, descriptors to send with them)."""


class HostBlock:
    """An anonymous file that processes mapping it later cannot resize."""

    def __init__(self, size: int) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._descriptor = os.memfd_create("trefoil-weights", flags)
        os.ftruncate(self._descriptor, size)
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self._descriptor, size)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def export(self) -> tuple[Values, list[int]]:
        return {"kind": "host"}, [self._descriptor]


class CudaBlock:
    """One allocation on a GPU (torch.UntypedStorage, CUDA IPC). Not run on CUDA. It keeps these
    rules:

    - An export has a counter of its own, so each process gets a fresh one.
    - The handle names a whole allocation of the driver. A block this large is one, so the offset is
      usually 0; it is exported all the same.
    - The memory may not be freed while another process maps it: the holder frees nothing, and a
      process that maps it ends when the holder does.
    - The copy of the weights must be complete: the holder waits for the device before it exports.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.bytes = torch.empty(size, dtype=torch.uint8, device=device)

    def export(self) -> tuple[Values, list[int]]:
        torch.cuda.synchronize(self.bytes.device)
        storage: Any = self.bytes.untyped_storage()
        shared = storage._share_cuda_()
        fields = [one.hex() if isinstance(one, bytes) else one for one in shared]
        return {"kind": "cuda", "handle": fields}, []


# Which fields of a CUDA handle are bytes: memory, counter, event.
_BYTES: Final = (1, 4, 6)


def new_block(size: int, device: torch.device) -> WeightBlock:
    return CudaBlock(size, device) if device.type == "cuda" else HostBlock(size)


def filled(
    tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[WeightBlock, Layout]:
    """A block with these tensors in `dtype`."""
    layout = Layout.of({name: tuple(t.shape) for name, t in tensors.items()}, dtype)
    block = new_block(layout.size, device)
    for name, view in layout.views(block.bytes).items():
        view.copy_(tensors[name])
    return block, layout


def mapped_block(
    values: Values, descriptors: Sequence[int], size: int, device: torch.device
) -> torch.Tensor:
    """uint8: the block that another process exported. Descriptors remain the caller's.

    Raises OSError, ValueError or RuntimeError if the block cannot be mapped here.
    """
    if values["kind"] == "host":
        # Private: a write here would change a copy of its page and not the block.
        return torch.frombuffer(
            mmap.mmap(descriptors[0], size, access=mmap.ACCESS_COPY), dtype=torch.uint8
        )
    fields = list(values["handle"])
    for place in _BYTES:
        fields[place] = bytes.fromhex(fields[place])
    # The device may have another number there, as each process may see other devices.
    fields[0] = device.index or 0
    torch.cuda.init()  # type: ignore[no-untyped-call]
    storage = torch.UntypedStorage._new_shared_cuda(*fields)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
