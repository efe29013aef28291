"""How a server is reached: over TLS or not, and as whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Access:
    """TLS trusting `ca`. `certificate` and `key`, or `token`, say who calls. `name` is the name in
    the servers' certificate when it is not their address."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""
    name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
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
