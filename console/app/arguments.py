"""The console's command line: its options, and the errors in them, which are reported before any
window opens. This module opens no file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from console.finding import links
from console.state import program
from console.state.access import FILES
from console.state.dashboard import MEASURES, View
from console.state.recent_servers import RecentServers
from console.state.timetext import parse_moment, parse_span

DEFAULT_WINDOW = "10m"
# The names of the panels, in reading order.
PANELS = (
    *("fleet", "server", "latency", "drift", "reference", "skew", "events"),
    *("predictions", "detail", "quality", "alerts", "changes", "compare"),
)
EXIT_CODES = (
    "exit codes: 0 closed, or the screenshot was written, 1 it could not be written, "
    "2 wrong usage, or no display"
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog=program.name(),
        description="Show what is wrong, on which server, and since when.",
        epilog=EXIT_CODES,
    )
    found.add_argument("--version", action="version", version=f"%(prog)s {program.version()}")
    _add_servers(found)
    _add_view(found.add_argument_group("the view"))
    _add_runbooks(found.add_argument)
    _add_window(found.add_argument_group("the window"))
    _add_cache(found.add_argument_group("the cache"))
    return found


def _add_servers(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "servers",
        nargs="*",
        metavar="HOST:PORT",
        help="servers to watch (default: those of the previous start, else 127.0.0.1:8433), or one "
        "trefoil:// link to a view",
    )
    add = found.add_argument_group("the servers").add_argument
    add("--again", action="store_true", help="watch the servers of the previous start, if any")
    add("--offline", action="store_true", help="contact no server; show what the cache holds")
    add("--tls", action="store_true", help="connect by TLS")
    add("--ca", type=Path, metavar="FILE", help="connect by TLS and trust these certificates (PEM)")
    add("--cert", type=Path, metavar="FILE", help="client certificate (PEM); needs --tls or --ca")
    add("--key", type=Path, metavar="FILE", help="private key of --cert (PEM)")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="token to send with every call; needs --tls or --ca",
    )
    add(
        "--expect",
        default="",
        metavar="STAMP",
        help="stamp that every server should serve (default: that of most servers)",
    )


def _add_runbooks(add: Callable[..., object]) -> None:
    add(
        "--runbooks",
        default="",
        metavar="URL",
        help="where your pages KIND.md about each kind of alert are (default: those built in)",
    )


def _add_view(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--at", metavar="TIME", help="end of the time shown, e.g. 2026-11-23T03:12Z (default: now)")
    add(
        "--window",
        default=DEFAULT_WINDOW,
        metavar="SPAN",
        help=f"length of the time shown, e.g. 30m or 6h ({DEFAULT_WINDOW})",
    )
    add(
        "--panel",
        choices=PANELS,
        default="",
        metavar="NAME",
        help=f"panel to start in: {', '.join(PANELS)}",
    )
    add("--filter", default="", metavar="LINE", help="predictions to show, e.g. 'site=b conf<0.6'")
    add("--measure", choices=MEASURES, default="psi", help="drift measure (psi)")


def _add_window(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--theme",
        choices=("auto", "dark", "light", "contrast"),
        default="auto",
        help="colours; auto follows the desktop (auto)",
    )
    add(
        "--size",
        default="",
        metavar="WxH",
        help="size in pixels (default: the last size; 1600x960 on the first start)",
    )
    add("--sound", action="store_true", help="beep for a new critical alert")
    add(
        "--screenshot",
        type=Path,
        metavar="FILE",
        help="write a screenshot and exit; needs no display",
    )


def _add_cache(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cache",
        type=Path,
        metavar="FILE",
        help="cache file (default: cache.db in the user's cache directory)",
    )
    group.add_argument(
        "--cache-limit-mb",
        type=_at_least_one,
        default=2048,
        metavar="MIB",
        help="maximum size of the cache (2048)",
    )


def view_of(arguments: argparse.Namespace) -> View:
    """The view that the options ask for. Raises ValueError with the message to show."""
    end = parse_moment(arguments.at) if arguments.at else None
    return View(
        window_s=parse_span(arguments.window),
        end_s=end,
        measure=arguments.measure,
        expected_stamp=arguments.expect,
    )


def follow_link(arguments: argparse.Namespace, recall: Callable[[], RecentServers]) -> bool:
    """Copy the values of a `trefoil://` link, given in place of servers, into `arguments`. Anyone
    may have written the link, so credentials go only to servers that were watched before. Returns
    False without a link. Raises ValueError."""
    given = [text for text in arguments.servers if links.is_link(text)]
    if not given:
        return False
    if len(arguments.servers) > 1:
        raise ValueError("a link stands alone: it names its servers")
    link = links.parse(given[0])
    arguments.servers = [check_address(server) for server in link.servers]
    arguments.again = False
    if link.panel and link.panel not in PANELS:
        raise ValueError(
            f"the link names the panel {link.panel!r}; the panels are {', '.join(PANELS)}"
        )
    arguments.panel = link.panel
    for name, value in link.values:
        setattr(arguments, name, value)
    if arguments.measure not in MEASURES:
        raise ValueError(f"the link names the measure {arguments.measure!r}")
    known = recall()
    if set(known.servers) >= set(arguments.servers):
        arguments.tls = arguments.tls or known.access.tls
        for name in FILES:
            setattr(arguments, name, getattr(arguments, name) or getattr(known.access, name))
    arguments.tls = arguments.tls or link.tls
    return True


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height in pixels. Raises ValueError."""
    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"--size {text!r}: expected WIDTHxHEIGHT, e.g. 1600x960")
    return int(width), int(height)


def check_address(text: str) -> str:
    """Accepts `HOST:PORT`, `[v6]:PORT` and `unix:/PATH`. Raises ValueError with what is wrong."""
    if text.startswith("unix:/"):
        return text
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r}: expected HOST:PORT")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: port {port!r} is not between 1 and 65535")
    return text


def check_access(arguments: argparse.Namespace) -> None:
    """Check that the named files exist and that no token is sent in plaintext. Raises
    ValueError."""
    for flag in ("--ca", "--cert", "--key", "--token-file"):
        file = getattr(arguments, flag[2:].replace("-", "_"))
        if file is not None and not file.is_file():
            raise ValueError(f"{flag} {file}: there is no such file")
    if arguments.token_file is not None and not (arguments.tls or arguments.ca):
        raise ValueError("--token-file needs --tls or --ca: a token is never sent in plaintext")
    if (arguments.cert is None) != (arguments.key is None):
        raise ValueError("--cert and --key belong together")
    if arguments.cert is not None and not (arguments.tls or arguments.ca):
        raise ValueError("--cert needs --tls or --ca")


def _at_least_one(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
