"""Chooses the device and the number of threads of a replica, and checks whether it fits there. The
caller passes in the figures of the machine."""

from __future__ import annotations

from collections.abc import Sequence

MIB = 1 << 20
# CUDA context and libraries of one process, and space for activations beside the weights.
CONTEXT_BYTES = 700 * MIB
ACTIVATION_SHARE = 0.15
# Bytes of one number in each dtype that a model runs in.
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
# With fewer parameters a GPU runs float32 too, as pipelines/models/device.py chooses (a test
# compares both).
FEW_PARAMETERS = 100_000_000
# Share of the free memory of a warm replica that its texts may take. The rest is for batches larger
# than the one it was warmed with, and for other processes.
TEXT_SHARE = 0.5


def devices(asked: str, cuda_count: int) -> tuple[tuple[str, ...], str]:
    """(the devices over which a pool is spread, reason) for auto, cpu, cuda or cuda:0,1.

    Raises ValueError for a device that does not exist.
    """
    every = tuple(f"cuda:{index}" for index in range(cuda_count))
    if asked == "cpu":
        return ("cpu",), "asked for"
    if asked == "auto":
        return (every, f"{cuda_count} CUDA devices") if every else (("cpu",), "no CUDA device")
    kind, _, numbers = asked.partition(":")
    names = tuple(f"cuda:{number}" for number in numbers.split(",")) if numbers else every
    if kind != "cuda" or not all(name.removeprefix("cuda:").isdecimal() for name in names):
        raise ValueError(f"device {asked!r}: expected auto, cpu, cuda or a list such as cuda:0,1")
    absent = [name for name in names if name not in every]
    if absent or not names:
        raise ValueError(f"device {asked!r}: this machine has {cuda_count} CUDA devices")
    return names, "asked for"


def place(names: Sequence[str], index: int, replicas: int) -> tuple[str, int, str]:
    """(device of this replica, how many replicas of the pool share it, reason), in round-robin
    order."""
    place = index % len(names)
    sharing = len(range(place, replicas, len(names)))
    return names[place], sharing, f"replica {index} of {replicas} over {', '.join(names)}"


def run_bytes(asked: str, on_gpu: bool, parameters: int) -> int:
    """Bytes of the weights in the dtype they run in, which is often half or twice what is stored.
    An unknown dtype counts as the largest: the replica refuses it."""
    auto = "bfloat16" if on_gpu and parameters >= FEW_PARAMETERS else "float32"
    return parameters * SIZES.get(auto if asked == "auto" else asked, max(SIZES.values()))


def needed(weight_bytes: int, shared: bool) -> tuple[int, int]:
    """(bytes needed once, bytes for each replica) on a device, as far as known before any
    measurement. Shared weights are there once, in a process with its own context."""
    each = int(weight_bytes * ACTIVATION_SHARE) + CONTEXT_BYTES
    return (weight_bytes + CONTEXT_BYTES, each) if shared else (0, weight_bytes + each)


def misfit(
    weight_bytes: int, sharing: int, free_bytes: int, shared: bool, where: str = "one device"
) -> str:
    """Why this many replicas do not fit into the free memory of a device, with the numbers; "" if
    they do. `weight_bytes` in the dtype they run in."""
    once, each = needed(weight_bytes, shared)
    if once + each * sharing <= free_bytes:
        return ""
    beside = f" and {once / MIB:,.0f} MiB together" if once else ""
    return (
        f"{sharing} replicas need about {each / MIB:,.0f} MiB each{beside} "
        f"(weights: {weight_bytes / MIB:,.0f} MiB {'once' if shared else 'each'}) on {where}, "
        f"where {free_bytes / MIB:,.0f} MiB are free: at most "
        f"{max(0, free_bytes - once) // each} fit"
    )


def text_bytes(free: int, sharing: int, where: str) -> tuple[int, str]:
    """(memory for the keys and values of one replica's texts, reason), from `free` bytes that
    `sharing` replicas share."""
    found = int(free * TEXT_SHARE / sharing)
    return found, (
        f"{found / MIB:,.0f} MiB of keys and values: {TEXT_SHARE:.0%} of {free / MIB:,.0f} MiB "
        f"free {where}, for {sharing} replicas"
    )


def threads_for(asked: int, replicas: int, cores: tuple[int, str]) -> tuple[int, str]:
    """(torch threads of one replica, reason). Two replicas with one thread are faster than one with
    two, so the cores are divided among the replicas. `cores` comes from server/host.py."""
    count, reason = cores
    if asked:
        return asked, "as configured"
    return max(1, count // replicas), f"{reason} / {replicas} replicas"
