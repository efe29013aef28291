"""What a host uses, as lines of text. Pure."""

from __future__ import annotations

from console.state.domain import GpuSnapshot, HostSnapshot
from console.state.units import share, size

FULL = 0.95  # share of memory or disk from which a warning is shown


def lines(host: HostSnapshot) -> list[tuple[str, bool]]:
    """(text, whether it needs attention): the host, then each GPU; empty where nothing is known."""
    if not host.at_unix_ms:
        return []
    cpu = f"CPU {share(host.cpu_share, 0)} of {host.cores:g} cores"
    parts = [cpu] if host.cpu_share == host.cpu_share else []
    if host.memory_total_bytes:
        used = f"{size(host.memory_used_bytes)} of {size(host.memory_total_bytes)}"
        parts.append(f"memory {used}")
    found = [(" · ".join(parts), _share(host.memory_used_bytes, host.memory_total_bytes) > FULL)]
    if host.disk_total_bytes:
        free = f"disk {size(host.disk_free_bytes)} free of {size(host.disk_total_bytes)}"
        used_bytes = host.disk_total_bytes - host.disk_free_bytes
        found.append((free, _share(used_bytes, host.disk_total_bytes) > FULL))
    return [pair for pair in (*found, *map(_gpu, host.gpus)) if pair[0]]


def figures(host: HostSnapshot) -> dict[str, tuple[float, str]]:
    """Numbers with their units, for a comparison."""
    if not host.at_unix_ms:
        return {}
    gib = 1 << 30
    found: dict[str, tuple[float, str]] = {
        "CPU": (100 * host.cpu_share, "%"),
        "cores": (host.cores, ""),
        "memory used": (host.memory_used_bytes / gib, "GiB"),
        "memory": (host.memory_total_bytes / gib, "GiB"),
        "disk free": (host.disk_free_bytes / gib, "GiB"),
    }
    for gpu in host.gpus:
        found[f"GPU {gpu.index} use"] = (100 * gpu.utilisation, "%")
        found[f"GPU {gpu.index} memory"] = (gpu.memory_used_bytes / gib, "GiB")
        found[f"GPU {gpu.index} power"] = (gpu.power_w, "W")
        found[f"GPU {gpu.index} temperature"] = (gpu.temperature_c, "°C")
    return found


def _gpu(gpu: GpuSnapshot) -> tuple[str, bool]:
    parts = [f"GPU {gpu.index} {gpu.name}".strip()]
    if gpu.utilisation == gpu.utilisation:
        parts.append(f"{share(gpu.utilisation, 0)} busy")
    if gpu.memory_total_bytes:
        parts.append(f"{size(gpu.memory_used_bytes)} of {size(gpu.memory_total_bytes)}")
    if gpu.power_w == gpu.power_w:
        parts.append(f"{gpu.power_w:.0f} W")
    if gpu.temperature_c == gpu.temperature_c:
        parts.append(f"{gpu.temperature_c:.0f} °C")
    return " · ".join(parts), _share(gpu.memory_used_bytes, gpu.memory_total_bytes) > FULL


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
