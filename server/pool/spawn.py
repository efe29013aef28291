"""Starts a replica process: its command, its environment, and the socket it inherits."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from server import host
from server.child_process import module_command
from server.config import ServerConfig
from server.pool.forks import ForkServerClient, NotForkable, ReplicaProcess
from server.pool.weight_holders import WeightHolders
from server.replica.placement import threads_for

# See host.keep_freed_memory; in a replica every thread allocates, so it applies from the first
# block.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(host.KEPT_BLOCK_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(16 * host.KEPT_TOP_BYTES),
}

# Below the data directory: the sha256 of large files, by what the file system reports about them.
DIGESTS = "digests.json"

Spawn = Callable[[int, socket.socket], Awaitable[ReplicaProcess]]

logger = logging.getLogger(__name__)


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
    flags += ["--allow-dirty"] if config.allow_dirty else []
    flags += [] if config.cuda_graphs else ["--no-cuda-graphs"]
    return (*module_command("server.replica.main"), *flags)


def holder_command(config: ServerConfig, device: str) -> tuple[str, ...]:
    """The command of the process that holds the weights on a device; it reads the bundle as a
    replica does."""
    ours = module_command("server.replica.weights.holder")
    return (*ours, *replica_command(config, 0)[len(ours) :], "--device", device)


def replica_spawner(
    config: ServerConfig,
    forks: ForkServerClient | None = None,
    holders: WeightHolders | None = None,
) -> Spawn:
    """With `forks` each replica is forked if possible, otherwise started as a separate process.
    With `holders` it gets its weights from them."""

    def command(index: int) -> tuple[str, ...]:
        path = holders.path() if holders is not None else None
        where = () if path is None else ("--weights", str(path))
        return (*replica_command(config, index), *where)

    alone = spawner(command, _threads(config))
    if forks is None:
        return alone
    environment = environment_of(_threads(config))

    async def spawn(index: int, end: socket.socket) -> ReplicaProcess:
        with end:
            try:
                return await forks.fork(command(index), environment, end)
            except NotForkable as error:
                logger.warning("replica %d imports the libraries itself: %s", index, error)
                return await alone(index, end)

    return spawn


def fork_server(config: ServerConfig) -> ForkServerClient | None:
    """The fork server; None where the configuration asks for separate processes."""
    if not config.fork_server:
        return None
    return ForkServerClient(environment_of(_threads(config)), config.load_timeout_s)


def environment_of(threads: int) -> dict[str, str]:
    """Environment with thread limits. OpenBLAS starts its threads when numpy is imported, and a
    replica's computations do not benefit from them; OpenMP starts its threads with the first
    parallel region."""
    counts = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **MALLOC, **counts}


def _threads(config: ServerConfig) -> int:
    return threads_for(config.threads, config.warm_pool, host.cores())[0]


def spawner(command: Callable[[int], Sequence[str]], threads: int = 1) -> Spawn:
    """`--fd N`, the replica's end of the socket, is appended to `command(index)`."""
    environment = environment_of(threads)

    async def spawn(index: int, end: socket.socket) -> ReplicaProcess:
        with end:
            return await asyncio.create_subprocess_exec(
                *command(index),
                "--fd",
                str(end.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(end.fileno(),),
                env=environment,
                # Ctrl-C in a terminal reaches only the front, which then drains.
                start_new_session=True,
            )

    return spawn
