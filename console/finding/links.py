"""A view as a link: `trefoil://10.0.0.1:8433/latency?at=…&window=30m`. It opens the same view as
the copied command line. A link names servers and never a file, a credential or an action. As it may
come from a chat, its reader connects with their own credentials, and only to servers watched
before. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from console.state import command_lines
from console.state.dashboard import View

SCHEME = "trefoil"
LONGEST = 8000  # characters; a desktop hands a link over as one argument
FIELDS = ("at", "window", "filter", "measure", "expect")  # named as the console's flags


@dataclass(frozen=True, slots=True)
class ViewLink:
    """The values of the flags of the same names, as texts."""

    servers: tuple[str, ...]
    panel: str = ""
    tls: bool = False
    values: tuple[tuple[str, str], ...] = ()


def link(
    shown: View,
    span: tuple[float, float],
    panel: str,
    line: str,
    servers: Sequence[str],
    tls: bool,
) -> str:
    """The link to the view that `command_lines.view` opens. `line` is the filter line of the
    predictions."""
    values = command_lines.view_values(shown, span, panel, line)
    given = {**values, "panel": "", "tls": "1" if tls else ""}  # the panel is the path
    query = urlencode({name: value for name, value in given.items() if value}, quote_via=quote)
    return f"{SCHEME}://{quote(','.join(servers), safe=':,[]')}/{quote(panel)}?{query}"


def is_link(text: str) -> bool:
    return text.lower().startswith(f"{SCHEME}:")


def parse(text: str) -> ViewLink:
    """Raises ValueError with what is wrong. Unknown names, which a newer console may send, are
    ignored."""
    if len(text) > LONGEST:
        raise ValueError(f"the link has {len(text):,} characters; the limit is {LONGEST:,}")
    parts = urlsplit(text)
    if parts.scheme != SCHEME or not text.lower().startswith(f"{SCHEME}://"):
        raise ValueError(f"{text[:80]!r}: expected trefoil://HOST:PORT/PANEL?at=TIME&window=SPAN")
    query = parse_qs(parts.query, max_num_fields=50)
    values = [(name, query[name][0]) for name in FIELDS if name in query]
    servers = tuple(one for one in unquote(parts.netloc).split(",") if one)
    tls = query.get("tls", [""])[0] == "1"
    return ViewLink(servers, unquote(parts.path.strip("/")), tls, tuple(values))
