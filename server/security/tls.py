"""TLS for the listener: certificates are reloaded when their files change, so they rotate without a
restart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `client_ca` None: clients need no certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None


def server_credentials(files: TlsFiles) -> Any:
    """Credentials for `add_secure_port`; with a CA for clients, every client needs a certificate.

    Raises OSError when a file cannot be read.
    """
    first = _configuration(files)
    return grpc.dynamic_ssl_server_credentials(
        first,
        _Fetcher(files),
        require_client_authentication=files.client_ca is not None,
    )


class _Fetcher:
    """Called at every handshake, so it checks modification times before it reads."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = times_of(files)

    def __call__(self) -> Any:
        try:
            now = times_of(self._files)
            if now == self._seen:
                return None  # keep the current certificate
            configuration = _configuration(self._files)
        except OSError:
            return None  # half-written or gone: keep the current certificate
        self._seen = now
        return configuration


def times_of(files: TlsFiles) -> tuple[int, ...]:
    """The modification time of each file. Raises OSError."""
    paths = [files.certificate, files.key, *([files.client_ca] if files.client_ca else [])]
    return tuple(path.stat().st_mtime_ns for path in paths)


def _configuration(files: TlsFiles) -> Any:
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    roots = files.client_ca.read_bytes() if files.client_ca else None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
