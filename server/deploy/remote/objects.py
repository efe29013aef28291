"""Bundles in an object store, through fsspec: s3://, gs://, az://, abfs://.

fsspec comes with torch; each store needs its own package, whose usual variables and files hold the
credentials and the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.deploy.remote.keeper import Body, FetchBroken
from server.deploy.remote.location import FetchRefused, Location

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
BLOCK_BYTES = 8 << 20  # of one request


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """`files` is a file system of fsspec."""

    files: Any
    root: str

    def small(self, name: str, most: int) -> bytes | None:
        path = f"{self.root}/{name}"
        try:
            size = int(self.files.info(path)["size"])
            if size > most:
                raise FetchRefused(f"{name} has {size} bytes; at most {most}")
            return bytes(self.files.cat_file(path, start=0, end=size)) if size else b""
        except FetchRefused:
            raise
        except FileNotFoundError:
            return None
        except Exception as error:  # of any library behind fsspec, which share no class
            raise broken(path, error) from error

    def open(self, name: str, start: int) -> Body:
        path = f"{self.root}/{name}"
        try:
            file = self.files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
            file.seek(start)
        except Exception as error:  # as above
            raise broken(path, error) from error

        def read(most: int) -> bytes:
            try:
                return bytes(file.read(most))
            except Exception as error:  # as above
                raise broken(path, error) from error

        return Body(start, read, file.close)


def broken(path: str, error: Exception) -> Exception:
    """What another attempt may not mend is refused at once."""
    message = f"{path}: {type(error).__name__}: {str(error)[:300]}"
    final = isinstance(error, (FileNotFoundError, PermissionError)) or "Credentials" in message
    return FetchRefused(message) if final else FetchBroken(message)


def object_store(location: Location) -> ObjectStore:
    """Raises FetchRefused when the store's package is missing."""
    try:
        import fsspec

        files = fsspec.filesystem(location.scheme)
    except ImportError as error:
        package = PACKAGES[location.scheme]
        raise FetchRefused(
            f"{location.scheme}:// needs {package} on the server: pip install fsspec {package} "
            f"({error})"
        ) from None
    return ObjectStore(files, location.place.partition("://")[2])
