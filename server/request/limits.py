"""The limits of a request: those of the server's flags, and those of the serving bundle.

Where both limit the same quantity, the smaller number applies. So a part that the bundle would
refuse after decoding is refused before it is queued, and callers see each limit once.
"""

from __future__ import annotations

from collections.abc import Iterable

from server.config import ServerConfig
from server.types import Facts

Limit = tuple[str, float, str]  # name, value, unit

# Fields of ServerConfig that callers see -> unit.
UNITS = {
    "queue_rows": "rows",
    "max_message_bytes": "bytes",
    "max_examples": "examples",
    "max_parts": "parts",
    "max_text_bytes": "bytes",
    "max_labels": "labels",
    "max_label_chars": "characters",
    "max_slices": "tags",
    "max_new_tokens": "tokens",
    "max_expected_stamps": "stamps",
    "upload_bytes": "bytes",
    "upload_peer_bytes": "bytes",
    "upload_peer_count": "uploads",
    "upload_total_bytes": "bytes",
    "upload_ttl_s": "seconds",
    "ahead_bytes": "bytes",
}


def server_limits(config: ServerConfig) -> tuple[Limit, ...]:
    return tuple((name, float(getattr(config, name)), unit) for name, unit in UNITS.items())


def in_force(limits: Iterable[Limit], facts: Facts | None) -> tuple[Limit, ...]:
    """Each limit once, with the smaller value of the server and the serving bundle."""
    found = {limit[0]: limit for limit in limits}
    for name, value, unit in facts.limits if facts is not None else ():
        known = found.get(name)
        if known is None or value < known[1]:
            found[name] = (name, value, unit or (known[2] if known else ""))
    return tuple(found.values())


def most(config: ServerConfig, facts: Facts | None, name: str) -> int:
    """The effective limit of this name."""
    values = [value for known, value, _ in facts.limits if known == name] if facts else []
    return int(min([getattr(config, name), *values]))
