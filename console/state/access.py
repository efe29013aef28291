"""How servers are reached: plain or TLS, with or without a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Fields of ConnectionAccess, named as the console's flags.
FILES = ("ca", "token_file", "cert", "key")


@dataclass(frozen=True, slots=True)
class ConnectionAccess:
    """Files are read when a channel is opened, in the I/O thread. `cert` and `key` identify this
    console to a server that requires client certificates."""

    tls: bool = False
    ca: Path | None = None
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def console_flags(self) -> list[str]:
        return (["--tls"] if self.tls else []) + self._files("--ca", "--cert", "--key")

    def server_flags(self) -> list[str]:
        """The flags for a `server` command. These commands use TLS only if a CA file is given."""
        return self._files("--tls-ca", "--tls-cert", "--tls-key") if self.ca else []

    def _files(self, ca: str, cert: str, key: str) -> list[str]:
        flags = {ca: self.ca, cert: self.cert, key: self.key, "--token-file": self.token_file}
        return [part for flag, file in flags.items() if file for part in (flag, str(file))]


PLAIN = ConnectionAccess()
