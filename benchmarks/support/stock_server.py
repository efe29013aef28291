"""The stock model of benchmarks/stock.py behind LitServe. It is a separate module because LitServe
starts its workers with `spawn`, which imports the API class by name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import litserve

from benchmarks.stock import WAYS, Stock


class StockApi(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, folder: Path, way: str) -> None:
        super().__init__()
        self._folder = folder
        self._way = way

    def setup(self, device: str) -> None:
        self._stock = Stock(self._folder)

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._stock.answer(self._way, request["parts"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    server = litserve.LitServer(
        StockApi(arguments.folder, arguments.way),
        accelerator="cpu",
        workers_per_device=len(os.sched_getaffinity(0)),
        timeout=600,
    )
    server.run(host="127.0.0.1", port=arguments.port, num_api_servers=1, generate_client_file=False)


if __name__ == "__main__":
    main()
