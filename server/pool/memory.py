"""Whether more replicas of a bundle fit beside what is loaded, on the host and on its devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from server import host
from server.config import ServerConfig
from server.replica.placement import ACTIVATION_SHARE, CONTEXT_BYTES

MIB = host.MIB
MOST_HEADER_BYTES = 100 << 20  # what safetensors itself allows
Available = Callable[[], tuple[int, str]]


def weights_bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in _shards(bundle))


def shares_weights(config: ServerConfig) -> bool:
    """Whether CPU replicas compute from the mapped files themselves: where all are float32, and
    that is what was asked for. In another dtype each replica makes its own copy."""
    return config.dtype in ("auto", "float32") and all(
        _dtypes(file) <= {"F32"} for file in _shards(config.bundle)
    )


def _shards(bundle: Path) -> list[Path]:
    return list((bundle / "weights").glob("*.safetensors"))


def _dtypes(shard: Path) -> set[str]:
    """Of a safetensors header; the replica refuses one that cannot be read."""
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, MOST_HEADER_BYTES)))
            return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError):
            return {"unknown"}


def misfit(
    config: ServerConfig,
    replicas: int,
    available: tuple[int, str],
    free: Mapping[str, int] | None = None,
) -> str:
    """Why so many more replicas of `config.bundle` do not fit, with the numbers; "" when they do.

    `free` is bytes by device, as reported by serving replicas.
    """
    if not config.memory_check or not replicas:
        return ""
    weights = weights_bytes(config.bundle)
    on_cpu = config.device == "cpu" or (config.device == "auto" and not host.has_gpu())
    return host.misfit(
        weights if on_cpu else 0,
        replicas,
        available,
        config.fork_server,
        on_cpu and shares_weights(config),
    ) or _device_misfit(weights, replicas, free or {})


def _device_misfit(weights: int, replicas: int, free: Mapping[str, int]) -> str:
    """They go round the devices; the fullest one decides."""
    each = int(weights * (1 + ACTIVATION_SHARE)) + CONTEXT_BYTES
    names = sorted(free)
    for place, name in enumerate(names):
        sharing = len(range(place, replicas, len(names)))
        if each * sharing > free[name]:
            return (
                f"{sharing} more replicas need about {each / MIB:,.0f} MiB each on {name}, where "
                f"{free[name] / MIB:,.0f} MiB are free: at most {max(free[name], 0) // each} fit"
            )
    return ""


def standby_s(config: ServerConfig, available: tuple[int, str]) -> tuple[float, str]:
    """How long the pool before is kept warm, and why: not at the price of a replica that dies and
    then cannot be replaced. `config` is that of the pool which serves now."""
    reason = misfit(config, 1, available)
    if reason:
        return 0.0, f"not kept: a dead replica could not be replaced beside it: {reason}"
    return config.standby_s, f"kept warm for {config.standby_s:g} s"
