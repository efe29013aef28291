"""How much memory a replica may take while it loads a bundle.

The limit is RLIMIT_DATA (setrlimit(2): private writable memory), not RLIMIT_AS: libraries reserve
address space that they never use. It ends when the bundle is loaded and warm: rows have limits of
their own. On a GPU nothing is limited: a CUDA context reserves what it later shares.
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

# Weights of one byte a value become float32 beside the file's own pages.
WEIGHTS_TIMES = 5
# Activations of a full batch while warming, and the tokenizer's tables (measured: 0.4 GiB for a
# bundle with 8,000-token texts).
ROOM_BYTES = 4 << 30


@dataclass(slots=True)
class LoadLimit:
    """`file` is what is being read, for the refusal; `limit_bytes` 0 when nothing is limited."""

    limit_bytes: int = 0
    file: str = "the libraries"

    def message(self) -> str:
        return (
            f"replica ran out of the memory limit {self.limit_bytes / MIB:,.0f} MiB while loading "
            f"{self.file}; raise --load-memory-mb if the bundle is to be trusted"
        )


@contextmanager
def load_limit(bundle: Path, device: str, asked_mb: int) -> Iterator[LoadLimit]:
    """Limits what this process may take beyond what it has now; `asked_mb` 0: by the weights."""
    found = LoadLimit()
    try:
        import resource  # not on every platform
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
    """What RLIMIT_DATA counts, in use now; 0 where the kernel does not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = (line.split() for line in lines if line.startswith("VmData:"))
    return next((int(fields[1]) * 1024 for fields in found), 0)


@contextmanager
def memory_refused(limit: LoadLimit) -> Iterator[None]:
    """Raises LoadRefused("memory") where memory ran short under a limit. Without one it is the
    host's memory: the replica ends, and is started again."""
    try:
        yield
    except Exception as error:  # of any class: a library may raise its own; each goes on
        if limit.limit_bytes and (short_of_memory(error) or _no_room(error)):
            raise LoadRefused("memory", limit.message()) from error
        raise


def _no_room(error: Exception) -> bool:
    """Of a map of a file, or of a thread's stack."""
    no_map = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return no_map or "can't start new thread" in str(error)
