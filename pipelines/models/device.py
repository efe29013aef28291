"""Chooses device, number format and thread count, each with its reason; copies batches to the
device.

These choices do not change the stamp: `env` shows the device, and the tolerance of the golden
answers limits how far it may change the numbers.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from pipelines.batch import mapped
from pipelines.models import attention

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# With models of fewer parameters a GPU spends its time on kernel launches: float32 costs nothing
# there.
_SMALL_PARAMETERS = 100_000_000
_DRIVER = Path("/proc/driver/nvidia/version")


def choose_device(asked: str = "auto") -> tuple[torch.device, str]:
    """`asked` is auto, cpu, cuda or cuda:N. Raises ValueError for a device that does not exist."""
    count = torch.cuda.device_count()
    if asked == "auto":
        if count:
            return torch.device("cuda:0"), f"a CUDA device is present: {_name(0)}"
        return torch.device("cpu"), "torch sees no CUDA device"
    if asked == "cpu":
        return torch.device("cpu"), "asked for"
    kind, _, number = asked.partition(":")
    if kind != "cuda" or not (number.isdecimal() or asked == "cuda"):
        raise ValueError(f"device {asked!r}: expected auto, cpu, cuda or cuda:N")
    index = int(number or 0)
    if index >= count:
        raise ValueError(f"device {asked!r}: torch {torch.__version__} sees {count} CUDA devices")
    return torch.device(f"cuda:{index}"), "asked for"


def choose_dtype(asked: str, device: torch.device, parameters: int) -> tuple[torch.dtype, str]:
    """`asked` is auto or a name such as bfloat16. Raises ValueError for another name."""
    if asked != "auto":
        if asked not in _DTYPES:
            raise ValueError(f"dtype {asked!r}: expected auto or one of {', '.join(_DTYPES)}")
        return _DTYPES[asked], "asked for"
    if device.type == "cpu":
        return torch.float32, "a CPU is exact and usually fastest in float32"
    size = f"{parameters / 1e6:.1f} M parameters"
    if parameters < _SMALL_PARAMETERS:
        return torch.float32, f"{size} are few for a GPU, and float32 agrees with a CPU"
    return torch.bfloat16, f"{size}: half the memory traffic and the fast matrix units"


def choose_threads(asked: int | str, device: torch.device) -> tuple[int, str]:
    """Torch threads of this process; `asked` is auto, 0 (the same) or a number."""
    if asked not in ("auto", 0, "0"):
        if not str(asked).isdecimal():  # refuses negative numbers too
            raise ValueError(f"threads {asked!r}: expected auto or a number above 0")
        return int(asked), "asked for"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device.type == "cpu":
        return cores or 1, f"every core this process may use ({cores})"
    return min(4, cores or 1), "the GPU computes; threads only preprocess media"


def configure_process(device: torch.device, dtype: torch.dtype, threads: int) -> None:
    """Sets process-wide switches once, at load."""
    torch.set_num_threads(threads)
    enter_thread(device)
    if device.type == "cuda":
        # float32 means float32: no silent 10-bit mantissas in convolutions or products.
        exact = dtype == torch.float32
        torch.backends.cudnn.allow_tf32 = not exact
        torch.backends.cuda.matmul.allow_tf32 = not exact


def enter_thread(device: torch.device) -> None:
    """Call this first in every thread of a replica. The current CUDA device belongs to a thread:
    without this call, a thread that works on `cuda:1` would create a context and its events on
    `cuda:0`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def describe(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, str]:
    """The environment in which numbers are computed, for display and for comparing servers."""
    cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": _name(device.index or 0) if cuda else _cpu_name(),
        "driver": _driver() if cuda else "",
        "cuda": torch.version.cuda or "" if cuda else "",
        "dtype": str(dtype).removeprefix("torch."),
        "attention": attention.NAME,
        "threads": str(threads),
        "torch_build": torch.__version__,
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }


def _name(index: int) -> str:
    return str(torch.cuda.get_device_name(index))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _driver() -> str:
    if not _DRIVER.exists():
        return "unknown"
    fields = _DRIVER.read_text().splitlines()[0].split()
    return next((field for field in fields if field[0].isdigit() and "." in field), "unknown")


_ALIGNED = 256  # bytes: what CUDA's allocators align to, and vector loads expect


@dataclass(frozen=True, slots=True)
class Packed:
    """The tensors of a value side by side in one block of bytes: one copy takes them all."""

    block: torch.Tensor  # uint8
    value: Any

    @staticmethod
    def of(value: Any, pinned: bool) -> Packed:
        size = 0
        for tensor in tensors_of(value):
            size = _aligned(size) + tensor.nbytes
        packed = Packed(torch.empty(size, dtype=torch.uint8, pin_memory=pinned), value)
        views = iter(tensors_of(packed.unpacked(packed.block)))
        for tensor in tensors_of(value):
            next(views).copy_(tensor)
        return packed

    def unpacked(self, block: torch.Tensor) -> Any:
        """The value with its tensors as views of `block`, a copy of this object's block."""
        end = 0

        def view(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal end
            begin = _aligned(end)
            end = begin + tensor.nbytes
            return block[begin:end].view(tensor.dtype).view(tensor.shape)

        return mapped(self.value, view)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors in the order in which `mapped` visits them."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    mapped(value, note)
    return found


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


class UploadStream:
    """Copies batches to a device on its own stream while the device computes another batch.

    On the CPU it does nothing. `upload` may be called from another thread than `join`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def upload(self, value: Any) -> tuple[Any, Any]:
        """(the same value with its tensors on the device, the event that marks the end of the
        copy)."""
        if self._stream is None:
            return value, None
        # torch's host allocator keeps page-locked blocks and reuses them once their copy is done.
        packed = Packed.of(value, pinned=True)
        with torch.cuda.stream(self._stream):
            there = packed.unpacked(packed.block.to(self._device, non_blocking=True))
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return there, event

    def join(self, value: Any, event: Any) -> None:
        """Makes the compute stream wait for the copy, and keeps the copied memory until it is
        used."""
        if event is None:
            return
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)

        def hold(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(current)
            return tensor

        mapped(value, hold)


class Download:
    """A tensor on its way to host memory. The constructor queues the copy behind the work of the
    current stream; whatever is queued later does not delay it.

    The memory is page-locked on a GPU, because a copy into ordinary memory would wait.
    """

    def __init__(self, source: torch.Tensor) -> None:
        cuda = source.device.type == "cuda"
        self._host = torch.empty(source.shape, dtype=source.dtype, pin_memory=cuda)
        self._host.copy_(source, non_blocking=True)
        self._copied: Any = None
        if cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(source.device))

    def wait(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()

    def array(self) -> NDArray[Any]:
        """Waits for the copy. The array shares its memory."""
        self.wait()
        found: NDArray[Any] = self._host.numpy()
        return found
