"""A replica's side of shared weights: ask for the block, map it, end with its holder."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from server.host import MIB
from server.replica.link import EXIT_WEIGHTS_LOST
from server.replica.weights.messages import ASK_BYTES, Handed, receive

if TYPE_CHECKING:
    import torch

# The holder reads and verifies the bundle first, as this process does; after this long this process
# loads its own weights.
WAIT_S = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """`tensors` None: this replica must load its own weights. `bytes` is the number of shared
    bytes."""

    tensors: dict[str, torch.Tensor] | None
    bytes: int
    reason: str


def shared_weights(
    path: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    stamp: str,
    wait_s: float = WAIT_S,
    lost: Callable[[], object] | None = None,
) -> SharedWeights:
    """The weights of bundle `stamp` from their holder, in `dtype` on `device`. `path` is the socket
    on which the front listens, None if nothing is shared. A thread calls `lost` when the holder
    ends; by default it ends this process."""
    if path is None:
        return SharedWeights(None, 0, "weights of its own: nothing is shared")
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(wait_s)
    try:
        connection.connect(str(path))
        connection.sendall(str(device).encode().ljust(ASK_BYTES))
        found = _mapped(receive(connection), device, dtype, stamp)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        # torch raises RuntimeError when CUDA IPC does not work: in a separate container, or on a
        # part of a GPU.
        found = SharedWeights(None, 0, f"weights of its own: {type(error).__name__}: {error}")
    if found.tensors is None:
        connection.close()
        return found
    connection.settimeout(None)
    watch = partial(_watch, connection, lost or _end)
    threading.Thread(target=watch, name="weights", daemon=True).start()
    return found


def _mapped(handed: Handed, device: torch.device, dtype: torch.dtype, stamp: str) -> SharedWeights:
    from pipelines.models.weight_block import Layout, mapped_block

    try:
        values = handed.values
        if "why_not" in values:
            return SharedWeights(None, 0, f"weights of its own: {values['why_not']}")
        layout = Layout.from_values(values["layout"])
        if values["stamp"] != stamp or layout.dtype != dtype:
            wanted = f"{values['stamp'][:12]} in {layout.dtype}, not {stamp[:12]} in {dtype}"
            return SharedWeights(None, 0, f"weights of its own: the holder has {wanted}")
        block = mapped_block(values["block"], handed.descriptors, layout.size, device)
    finally:
        handed.close()
    how = "CUDA IPC" if device.type == "cuda" else "an anonymous file"
    size = f"{layout.size / MIB:,.1f} MiB on {device}"
    reason = f"{size} shared by all replicas there, held by process {values['pid']} through {how}"
    return SharedWeights(layout.views(block), layout.size, reason)


def _watch(connection: socket.socket, lost: Callable[[], object]) -> None:
    with connection, suppress(OSError):  # a reset counts as its end too
        connection.recv(1)  # the holder sends no more, so this returns when it ends
    lost()


def _end() -> None:
    """Memory of a process that has ended must not be read any more (CUDA, cudaIpcOpenMemHandle), so
    no result of this process can be trusted."""
    logger.error("the process that holds the weights has ended; so does this replica")
    os._exit(EXIT_WEIGHTS_LOST)
