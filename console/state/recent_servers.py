"""The servers of the last time, for `--again`: addresses and names of files, never a token."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)


FILES = ("ca", "token_file", "cert", "key")


@dataclass(frozen=True, slots=True)
class RecentServers:
    servers: tuple[str, ...] = ()
    tls: bool = False
    ca: str = ""
    token_file: str = ""
    cert: str = ""
    key: str = ""


def path() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("trefoil-console")) / "last.json"


def remember(last: RecentServers, place: Path) -> None:
    """A home that cannot be written costs the memory, not the start."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(asdict(last), indent=1) + "\n")
    except OSError as error:
        log.warning("the servers cannot be saved for --again: %s", error)


def recall(place: Path) -> RecentServers:
    """Empty without a readable file."""
    try:
        found = json.loads(place.read_text())
    except FileNotFoundError:
        return RecentServers()
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used: %s", place, error)
        return RecentServers()
    known = found if isinstance(found, dict) else {}
    servers = known.get("servers")
    named = servers if isinstance(servers, list) else []
    texts = {key: known.get(key) for key in FILES}
    return RecentServers(
        servers=tuple(server for server in named if isinstance(server, str)),
        tls=known.get("tls") is True,
        **{key: value if isinstance(value, str) else "" for key, value in texts.items()},
    )
