"""What can go wrong in the front itself. A row's own trouble is a Fault, never an exception.

ServerError
└── PoolRefused   the pool cannot serve: `check` is memory, device, or a bundle check
"""

from __future__ import annotations


class ServerError(Exception):
    pass


class PoolRefused(ServerError):
    """`check` as in pipelines.errors.BundleRefused, or "memory", "device", "start"."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
        self.message = message
