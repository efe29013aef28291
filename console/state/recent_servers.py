"""The servers of the previous start, for `--again`: addresses and names of files, never a token."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from console.state.access import FILES, PLAIN, ConnectionAccess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecentServers:
    servers: tuple[str, ...] = ()
    access: ConnectionAccess = PLAIN


def path() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("trefoil-console")) / "last.json"


def remember(last: RecentServers, place: Path) -> None:
    """Save the last start. File names are made absolute, as a menu starts programs in another
    folder. If the home folder cannot be written, the console starts all the same."""
    files = {name: getattr(last.access, name) for name in FILES}
    absolute = {name: str(file.resolve()) for name, file in files.items() if file}
    content = {"servers": last.servers, "tls": last.access.tls, **absolute}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        log.warning("the servers cannot be saved for --again: %s", error)


def recall(place: Path) -> RecentServers:
    """The saved start; empty without a readable file."""
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
    files = {key: Path(value) for key, value in texts.items() if isinstance(value, str) and value}
    return RecentServers(
        tuple(server for server in named if isinstance(server, str)),
        ConnectionAccess(known.get("tls") is True, **files),
    )
