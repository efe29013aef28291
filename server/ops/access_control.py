"""Access control from the settings: credentials of the port, tokens, the audit log."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import grpc

from server.api.listen_address import CannotListen
from server.config import ServerConfig
from server.security.audit import AuditLog
from server.security.guard import Guard
from server.security.tls import TlsFiles, server_credentials
from server.security.tokens import TokenFile, TokenFileInvalid
from server.telemetry.store import payload_keys

Credentials = Callable[[], grpc.ServerCredentials]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Who may call, and what is written to the audit log."""

    tokens: TokenFile | None = None
    audit: AuditLog | None = None
    guards: tuple[Guard, ...] = ()

    @property
    def messages(self) -> list[str]:
        trouble = self.audit.trouble if self.audit is not None else ""
        return [f"WITHOUT AN AUDIT FILE: {trouble}"] if trouble else []

    def close(self) -> None:
        if self.audit is not None:
            self.audit.close()


def access_of(config: ServerConfig) -> AccessControl:
    """Without tokens or client certificates no credential is required.

    Raises CannotListen for tokens without TLS, or a token file that cannot be used.
    """
    if config.tokens is None and config.tls_client_ca is None:
        return AccessControl()
    if config.tls_cert is None:
        raise CannotListen("--tokens needs --tls-cert: a token is never asked for in plaintext")
    try:
        tokens = TokenFile(config.tokens) if config.tokens is not None else None
    except (OSError, TokenFileInvalid) as error:
        raise CannotListen(f"--tokens: {error}") from None
    audit = AuditLog(config.data / "audit.jsonl")
    certificates = config.tls_client_ca is not None
    return AccessControl(tokens, audit, (Guard(tokens, audit, certificates),))


def check_payload_key(config: ServerConfig) -> None:
    """Raises CannotListen if the key cannot be used: payloads to be encrypted are never stored in
    plaintext."""
    if config.payload_key is None:
        return
    try:
        payload_keys.read(config.payload_key)
    except (OSError, payload_keys.KeyFileInvalid) as error:
        raise CannotListen(f"--payload-key: {error}") from None


def tls_files(config: ServerConfig) -> TlsFiles:
    assert config.tls_cert is not None and config.tls_key is not None
    return TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca)


def credentials_of(config: ServerConfig) -> Credentials | None:
    """Makes the credentials of a gRPC server, as each needs its own; None means plaintext. Raises
    CannotListen when the files are not a pair."""
    if config.tls_cert is None and config.tls_key is None and config.tls_client_ca is None:
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise CannotListen("TLS needs both --tls-cert and --tls-key")
    from server.security import pem  # imported late: plaintext costs no memory for it

    try:
        pem.check_pair(config.tls_cert, config.tls_key)
        if config.tls_client_ca is not None:
            pem.certificates(config.tls_client_ca)
        if lapse := pem.lapse(config.tls_cert, dt.datetime.now(dt.UTC)):
            logger.warning("certificate: %s", lapse)
        server_credentials(files := tls_files(config))
        return partial(server_credentials, files)
    except OSError as error:
        raise CannotListen(f"cannot read {error.filename}: {error.strerror}") from None
    except pem.BadPem as error:
        raise CannotListen(str(error)) from None
