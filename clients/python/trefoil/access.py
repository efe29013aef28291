"""How a client reaches a server: the CA it trusts, and its own certificate or token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Access:
    """TLS that trusts the CA in `ca`. `certificate` with `key`, or `token`, identify the caller.
    `name` is the name in the servers' certificate when it differs from their address."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""
    name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files; raises OSError."""
        tls = grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.certificate.read_bytes() if self.certificate else None,
        )
        if not self.token:
            return tls
        return grpc.composite_channel_credentials(
            tls, grpc.access_token_call_credentials(self.token)
        )
