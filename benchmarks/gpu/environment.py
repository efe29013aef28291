"""Reports the machine and the best rates that it reaches."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata

import torch

from benchmarks.gpu.measure import arguments, copy_bytes_s, p50, product_flops, show, timed

NAMES = ("torch", "torchaudio", "transformers", "tokenizers", "numpy", "grpcio", "protobuf")


def main() -> None:
    given = arguments()
    device, small = torch.device(given.device), given.small
    show(f"Python {platform.python_version()}; " + ", ".join(f"{n} {_version(n)}" for n in NAMES))
    show(f"{len(os.sched_getaffinity(0))} cores, kernel {platform.release()}")
    if device.type == "cuda":
        show(torch.cuda.get_device_properties(device), "CUDA", torch.version.cuda)
    show(f"copy on the device: {copy_bytes_s(device, small) / 1e12:.3f} TB/s")
    dtype = torch.float32 if small else torch.bfloat16
    show(f"matrix product, {dtype}: {product_flops(device, dtype, small) / 1e12:.2f} TFLOP/s")
    little = torch.ones(8, device=device)

    def thousand() -> None:
        for _ in range(1000):
            little.add_(1)

    show(f"launch: {p50(timed(thousand, device, 0.2)):.2f} us")
    show(f"launch and wait: {1e3 * p50(timed(lambda: little.add_(1), device, 0.1)):.1f} us")
    if device.type == "cuda":
        host = torch.randn(1 << 26)
        began = time.perf_counter()
        pinned = host.pin_memory()
        show(f"pin 256 MiB: {1e3 * (time.perf_counter() - began):.0f} ms")
        there = torch.empty(1 << 26, device=device)
        for name, source in (("pageable", host), ("page-locked", pinned)):
            took = p50(timed(lambda s=source: there.copy_(s, non_blocking=True), device, 0.3))  # type: ignore[misc]
            show(f"host to device, {name}: {host.nbytes / took / 1e6:.1f} GB/s")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
