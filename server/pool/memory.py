"""Whether more replicas of a bundle fit beside what is loaded, on the host and on its devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from server import host
from server.config import ServerConfig
from server.replica import placement

MOST_HEADER_BYTES = 100 << 20  # the limit of safetensors itself
Available = Callable[[], tuple[int, str]]


def weights_bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in _shards(bundle))


def shares_weights(config: ServerConfig) -> bool:
    """Whether CPU replicas compute directly on the mapped files: if all weights are float32 and
    float32 was requested. With another dtype each replica makes its own copy."""
    return config.dtype in ("auto", "float32") and all(
        {entry["dtype"] for entry in _header(file)} <= {"F32"} for file in _shards(config.bundle)
    )


def choose_sharing(config: ServerConfig, gpu: bool) -> tuple[bool, str]:
    """(whether the replicas of a pool share weights through a holder, reason)."""
    if not config.share_weights:
        return False, "as configured"
    if config.warm_pool < 2:
        return False, "one replica shares with no other"
    if gpu and config.device != "cpu":
        return True, "one copy a GPU instead of one a replica"
    if shares_weights(config):
        return False, "all replicas map the files of the bundle"
    return True, "they run in another format than they are stored in, and are converted once"


def _shards(bundle: Path) -> list[Path]:
    return list((bundle / "weights").glob("*.safetensors"))


def parameters(bundle: Path) -> int:
    return sum(prod(entry["shape"]) for shard in _shards(bundle) for entry in _header(shard))


def _header(shard: Path) -> list[dict[str, Any]]:
    """`dtype` and `shape` of each tensor of a safetensors file. A file that cannot be read is left
    to the replica, which refuses it."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, MOST_HEADER_BYTES)))
            entries = (entry for name, entry in header.items() if name != "__metadata__")
            return [{"dtype": entry["dtype"], "shape": entry["shape"]} for entry in entries]
        except (ValueError, TypeError, KeyError, AttributeError):
            return [{"dtype": "unknown", "shape": [shard.stat().st_size]}]


def misfit(
    config: ServerConfig,
    replicas: int,
    available: tuple[int, str],
    free: Mapping[str, int] | None = None,
) -> str:
    """Why this many more replicas of `config.bundle` do not fit, with the numbers; "" if they do.

    `free` is bytes by device, as reported by serving replicas.
    """
    if not config.memory_check or not replicas:
        return ""
    on_cpu = config.device == "cpu" or (config.device == "auto" and not host.has_gpu())
    held, _ = choose_sharing(config, not on_cpu)
    run = placement.run_bytes(config.dtype, not on_cpu, parameters(config.bundle))
    return host.misfit(
        (run if held else weights_bytes(config.bundle)) if on_cpu else 0,
        replicas,
        available,
        config.fork_server,
        on_cpu and (held or shares_weights(config)),
    ) or _device_misfit(run, replicas, free or {}, held)


def _device_misfit(weights: int, replicas: int, free: Mapping[str, int], held: bool) -> str:
    """Replicas are spread over the devices in turn; the fullest device decides."""
    names = sorted(free)
    found = (
        placement.misfit(
            weights, len(range(place, replicas, len(names))), max(free[name], 0), held, name
        )
        for place, name in enumerate(names)
    )
    return next((reason for reason in found if reason), "")


def standby_s(config: ServerConfig, available: tuple[int, str]) -> tuple[float, str]:
    """(seconds, reason): how long the previous pool is kept warm. It must not take the memory that
    is needed to replace a dead replica. `config` is that of the pool that serves now."""
    reason = misfit(config, 1, available)
    if reason:
        return 0.0, f"not kept: a dead replica could not be replaced beside it: {reason}"
    return config.standby_s, f"kept warm for {config.standby_s:g} s"
