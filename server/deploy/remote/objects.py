"""Bundles in an object store, through fsspec: s3://, gs://, az://, abfs://.

fsspec comes with torch; each store needs its own package, which takes credentials and endpoint from
its usual variables and files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from server.deploy.remote.keeper import Body, FetchBroken
from server.deploy.remote.location import FetchRefused, Location

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
BLOCK_BYTES = 8 << 20  # bytes of one request
# fsspec documents OSError. s3fs turns a store's errors into it, but passes on other errors of
# botocore and aiohttp. gcsfs passes on its own and those of google-auth, adlfs those of azure-core.
PASSED_ON = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("gcsfs.retry", "ChecksumError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """`files` is an fsspec file system."""

    files: Any
    root: str

    def small(self, name: str, most: int) -> bytes | None:
        path = f"{self.root}/{name}"
        with _explained(path), suppress(FileNotFoundError):
            size = int(self.files.info(path)["size"])
            if size > most:
                raise FetchRefused(f"{name} has {size} bytes; at most {most}")
            return bytes(self.files.cat_file(path, start=0, end=size)) if size else b""
        return None

    def open(self, name: str, start: int) -> Body:
        path = f"{self.root}/{name}"
        with _explained(path):
            file = self.files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
            file.seek(start)

        def read(most: int) -> bytes:
            with _explained(path):
                return bytes(file.read(most))

        return Body(start, read, file.close)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raises FetchRefused or FetchBroken in place of the errors of a file system."""
    try:
        yield
    except errors() as error:
        raise broken(path, error) from error


def errors() -> tuple[type[Exception], ...]:
    """The exceptions that an fsspec file system may raise, from the libraries that are imported.
    ValueError stands for a name or a setting that it cannot use."""
    known = (getattr(sys.modules.get(module), name, None) for module, name in PASSED_ON)
    return (OSError, ValueError, *(one for one in known if one is not None))


def broken(path: str, error: Exception) -> Exception:
    """FetchBroken if another attempt may help, otherwise FetchRefused."""
    message = f"{path}: {type(error).__name__}: {str(error)[:300]}"
    final = isinstance(error, (FileNotFoundError, PermissionError, ValueError))
    final = final or "Credentials" in message
    return FetchRefused(message) if final else FetchBroken(message)


def object_store(location: Location) -> ObjectStore:
    """Raises FetchRefused when the store's package is missing or cannot use its settings."""
    try:
        import fsspec

        with _explained(str(location)):
            files = fsspec.filesystem(location.scheme)
    except ImportError as error:
        package = PACKAGES[location.scheme]
        raise FetchRefused(
            f"{location.scheme}:// needs {package} on the server: pip install fsspec {package} "
            f"({error})"
        ) from None
    return ObjectStore(files, location.place.partition("://")[2])
