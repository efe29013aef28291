"""Which alerts a silence covers: terms such as `kind=drift feature=image.* slice=site=b`, all of
which must hold, or the id of one alert. `*` stands for anything."""

from __future__ import annotations

from fnmatch import fnmatchcase

from server.telemetry.errors import BadFilter
from server.telemetry.rows import AlertRow

FIELDS = ("id", "key", "kind", "severity", "stamp", "feature", "slice")


def parse_matcher(text: str) -> tuple[tuple[str, str], ...]:
    """(field, pattern) of each term. Raises BadFilter."""
    terms = []
    for word in text.split():
        field, found, pattern = word.partition("=")
        if not found:
            field, pattern = "id", word
        if field not in FIELDS:
            raise BadFilter(word, f"one of {', '.join(FIELDS)} wanted before '='")
        if not pattern:
            raise BadFilter(word, "nothing after '='")
        terms.append((field, pattern))
    if not terms:
        raise BadFilter(text, "an empty matcher would silence everything; say kind=* to mean that")
    return tuple(terms)


def matches(text: str, alert: AlertRow) -> bool:
    """Every term holds; of features and slices, for at least one of the alert's."""
    return all(_holds(field, pattern, alert) for field, pattern in parse_matcher(text))


def _holds(field: str, pattern: str, alert: AlertRow) -> bool:
    if field == "feature":
        return any(fnmatchcase(f, pattern) for f in alert.features)
    if field == "slice":
        return any(fnmatchcase(s, pattern) for s in alert.slices)
    return fnmatchcase(str(getattr(alert, field)), pattern)
