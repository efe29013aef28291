"""TLS of the HTTP port: the files of the gRPC port, reloaded when they change."""

from __future__ import annotations

import ssl
from typing import Any

from server.security.tls import TlsFiles, times_of


class RotatingContext(ssl.SSLContext):
    """Each handshake uses the current files; half-written files change nothing.

    Raises OSError when a file cannot be read at the start.
    """

    _files: TlsFiles
    _seen: tuple[int, ...]
    _current: ssl.SSLContext

    def __new__(cls, files: TlsFiles) -> RotatingContext:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._files = files
        made._seen = times_of(files)
        made._current = _context(files)
        return made

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        self._look()
        return self._current.wrap_bio(*arguments, **named)

    def _look(self) -> None:
        try:
            now = times_of(self._files)
            if now == self._seen:
                return
            self._current = _context(self._files)
        except OSError:  # ssl's errors are OSErrors too
            return
        self._seen = now


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(files.certificate, files.key)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
