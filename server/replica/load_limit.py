"""How much memory a replica may take while it loads a bundle.

The limit is RLIMIT_DATA (setrlimit(2): private writable memory), not RLIMIT_AS: libraries reserve
address space that they never use. It ends when the bundle is loaded and warm, as rows have their
own limits. On a GPU nothing is limited: a CUDA context reserves what it later shares.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.host import MIB
from server.replica.shortage import short_of_memory
from server.replica.worker import LoadRefused

# Weights with one byte for each value become float32, beside the pages of the file.
WEIGHTS_TIMES = 5
# Activations of a full batch during warm-up, and the tokenizer's tables (measured: 0.4 GiB for a
# bundle with 8,000-token texts).
ROOM_BYTES = 4 << 30


@dataclass(slots=True)
class LoadLimit:
    """`file` is the file being read, for the refusal; `limit_bytes` 0: no limit."""

    limit_bytes: int = 0
    file: str = "the libraries"

    def message(self) -> str:
        return (
            f"replica ran out of the memory limit {self.limit_bytes / MIB:,.0f} MiB while loading "
            f"{self.file}; raise --load-memory-mb if the bundle is to be trusted"
        )


@contextmanager
def load_limit(bundle: Path, device: str, asked_mb: int) -> Iterator[LoadLimit]:
    """Limits how much memory this process may take beyond its present use; `asked_mb` 0 derives the
    limit from the weights."""
    found = LoadLimit()
    try:
        import resource  # does not exist on every platform
    except ImportError:
        yield found
        return
    if device != "cpu":
        yield found
        return
    weights = sum(path.lstat().st_size for path in bundle.glob("weights/*.safetensors"))
    found.limit_bytes = asked_mb * MIB or WEIGHTS_TIMES * weights + ROOM_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + found.limit_bytes
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield found
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """The memory in use that RLIMIT_DATA counts; 0 if the kernel does not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = (line.split() for line in lines if line.startswith("VmData:"))
    return next((int(fields[1]) * 1024 for fields in found), 0)


@contextmanager
def memory_refused(limit: LoadLimit) -> Iterator[None]:
    """Raises LoadRefused("memory") when memory runs out under a limit. Without a limit the host is
    short of memory: the replica ends, and is started again."""
    try:
        yield
    # Of any class, as a library may raise its own; all others are raised again.
    except Exception as error:
        if limit.limit_bytes and (short_of_memory(error) or _no_room(error)):
            raise LoadRefused("memory", limit.message()) from error
        raise


def _no_room(error: Exception) -> bool:
    """Whether a map of a file or the stack of a thread could not be allocated."""
    no_map = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return no_map or "can't start new thread" in str(error)
