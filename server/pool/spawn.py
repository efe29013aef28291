"""Starting a replica process: its command, its environment, and the socket it inherits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from server import host
from server.child_process import module_command
from server.config import ServerConfig
from server.replica.placement import threads_for

# See host.keep_freed_memory; in a replica, where every thread allocates, from the first block on.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(host.KEPT_BLOCK_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(16 * host.KEPT_TOP_BYTES),
}

# Below the data directory: sha256 of large files by what the file system says of them.
DIGESTS = "digests.json"

Spawn = Callable[[int, socket.socket], Awaitable[asyncio.subprocess.Process]]


def replica_command(config: ServerConfig, index: int) -> tuple[str, ...]:
    options: dict[str, object] = {
        "--index": index,
        "--replicas": config.warm_pool,
        "--bundle": config.bundle,
        "--device": config.device,
        "--dtype": config.dtype,
        "--threads": config.threads,
        "--decode-threads": config.decode_threads,
        "--batch-rows": config.max_batch_rows,
        "--batch-cost": config.max_batch_cost,
        "--probe-runs": config.probe_runs,
        "--generations": config.max_generations,
        "--load-memory-mb": config.load_memory_mb,
        "--digests": config.data / DIGESTS,
        "--skew-interval": config.skew_interval_s,
        "--log-format": config.log_format,
        "--log-level": config.log_level,
    }
    if config.require_signature is not None:
        options["--require-signature"] = config.require_signature
    flags = [text for name, value in options.items() for text in (name, str(value))]
    dirty = ["--allow-dirty"] if config.allow_dirty else []
    return (*module_command("server.replica.main"), *flags, *dirty)


def replica_spawner(config: ServerConfig) -> Spawn:
    threads, _ = threads_for(config.threads, config.warm_pool, host.cores())
    return spawner(lambda index: replica_command(config, index), threads)


def spawner(command: Callable[[int], Sequence[str]], threads: int = 1) -> Spawn:
    """`command(index)` is completed by `--fd N`, the replica's end of the socket."""
    environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(threads)}

    async def spawn(index: int, end: socket.socket) -> asyncio.subprocess.Process:
        with end:
            return await asyncio.create_subprocess_exec(
                *command(index),
                "--fd",
                str(end.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(end.fileno(),),
                env=environment,
                # Ctrl-C in a terminal reaches the front alone, which then drains.
                start_new_session=True,
            )

    return spawn
