"""The process that holds the weights of one bundle on one device, for every replica there.

    python -P server/child_process.py server.replica.weights.holder --fd N --bundle DIR --device D

It verifies the bundle as a replica does, puts the weights on the device once, and never computes,
so a request cannot end it. The front sends it the connection of each replica (server/pool/
weight_holders.py); it answers with the block and keeps the connection, whose end shows a replica
that the holder is gone. The holder ends when the front is gone or closes its socket, so a swap
frees the memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.ops import event_log
from server.replica import main as replica
from server.replica.weights.messages import hand_over
from server.replica.worker import LoadRefused

if TYPE_CHECKING:
    from pipelines.models.weight_block import WeightBlock

MODULE = "server.replica.weights.holder"
SEND_S = 10.0  # a replica that does not read its answer delays the others no longer than this

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """`values` is what every replica receives, besides what exports the block to it; `why_not` is
    why there is no block."""

    block: WeightBlock | None
    values: dict[str, Any]
    why_not: str = ""


def held(arguments: argparse.Namespace) -> Held:
    """The weights on the device. If they cannot be held, the reason is the answer to each replica,
    which then loads its own weights, and refuses them itself if they are at fault."""
    import torch

    from pipelines.errors import BundleRefused
    from pipelines.models import device as devices
    from pipelines.models.weight_block import filled

    try:
        device, _ = devices.choose_device(arguments.device)
        devices.enter_thread(device)
        bundle = replica.open_bundle(arguments, lambda step, fraction: None)
        tensors = bundle.tensors()
        parameters = sum(tensor.numel() for tensor in tensors.values())
        dtype, _ = devices.choose_dtype(arguments.dtype, device, parameters)
        block, layout = filled(tensors, device, dtype)
    except (BundleRefused, LoadRefused, ValueError, OSError, RuntimeError, MemoryError) as error:
        return Held(None, {}, f"{type(error).__name__}: {str(error)[:300]}")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    values = {"stamp": bundle.stamp.hex, "pid": os.getpid(), "layout": layout.to_values()}
    return Held(block, values)


class Holder:
    def __init__(self, control: socket.socket, weights: Held) -> None:
        self._control = control
        self._weights = weights
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Returns when the front is gone."""
        while True:
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is not self._control:
                    self._drop(connection)
                elif not self._accept():
                    self._close()
                    return

    def _accept(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
        if not data:
            return False
        connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(SEND_S)
        try:
            self._answer(connection)
        except OSError as error:
            logger.warning("a replica did not take the weights: %s", error)
            connection.close()
            return True
        self._selector.register(connection, selectors.EVENT_READ)
        return True

    def _answer(self, connection: socket.socket) -> None:
        block, why_not = self._weights.block, self._weights.why_not
        exported: tuple[dict[str, Any], list[int]] = ({}, [])
        if block is not None:
            try:
                exported = block.export()
            except RuntimeError as error:  # torch's error when CUDA IPC does not work here
                block, why_not = None, str(error).splitlines()[0][:200]
        if block is None:
            hand_over(connection, {"why_not": why_not}, [])
        else:
            values, descriptors = exported
            hand_over(connection, self._weights.values | {"block": values}, descriptors)

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            self._drop(key.fileobj)

    def _drop(self, connection: Any) -> None:
        """Drop a connection that became readable: replicas send nothing, so its replica has
        ended."""
        self._selector.unregister(connection)
        connection.close()


def main(argv: Sequence[str] | None = None) -> None:
    arguments = replica.parse(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.stderr is not None:
        faulthandler.enable(sys.stderr)
    event_log.install(sys.stdout, arguments.log_format, arguments.log_level, "weights")
    control = socket.socket(fileno=arguments.fd)
    weights = held(arguments)
    if weights.block is None:
        logger.warning("the weights are not shared on %s: %s", arguments.device, weights.why_not)
    Holder(control, weights).serve()


if __name__ == "__main__":
    main()
