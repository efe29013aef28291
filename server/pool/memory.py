"""Whether more replicas of a bundle fit beside what is loaded, on the host and on its devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from server import host
from server.config import ServerConfig
from server.replica.placement import ACTIVATION_SHARE, CONTEXT_BYTES

MIB = host.MIB
Available = Callable[[], tuple[int, str]]


def weights_bytes(bundle: Path) -> int:
    return sum(file.stat().st_size for file in (bundle / "weights").glob("*.safetensors"))


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
    return host.misfit(weights if on_cpu else 0, replicas, available) or _device_misfit(
        weights, replicas, free or {}
    )


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
