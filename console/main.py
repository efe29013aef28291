"""`console HOST:PORT …`: arguments, the window, and the end of every thread."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from console import last, program
from console.board import MEASURES, Board, View
from console.timetext import parse_moment, parse_span

if TYPE_CHECKING:
    from console.feed.address import Access
    from console.window import Window

DEFAULT_WINDOW = "10m"
PICTURE_WITHIN_S = 90.0  # also of servers that never answer


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog=program.name(), description="What is wrong, on which server, since when."
    )
    add = found.add_argument
    add("servers", nargs="*", metavar="HOST:PORT", help="servers to watch")
    add("--again", action="store_true", help="watch the servers of the last time, if any")
    add("--offline", action="store_true", help="ask no server: show what the cache holds")
    add("--at", metavar="TIME", help="end of the window, e.g. 2026-11-23T03:12Z (default: now)")
    add("--window", default=DEFAULT_WINDOW, help=f"length, e.g. 30m or 6h ({DEFAULT_WINDOW})")
    add("--panel", default="", help="panel to start in: fleet, latency, drift, skew, events, …")
    add("--filter", default="", metavar="LINE", help="predictions to show, e.g. 'site=b conf<0.6'")
    add("--measure", choices=MEASURES, default="psi", help="drift measure (psi)")
    add("--expect", default="", metavar="STAMP", help="stamp that every server should serve")
    add("--theme", choices=("auto", "dark", "light", "contrast"), default="auto")
    add("--tls", action="store_true", help="connect by TLS")
    add("--ca", type=Path, metavar="FILE", help="certificates to trust, with --tls")
    add("--token-file", type=Path, metavar="FILE", help="token to send with every call")
    add("--cache", type=Path, metavar="FILE", help="the cache file")
    add("--cache-limit-mb", type=int, default=2048, help="size of the cache (2048)")
    add("--sound", action="store_true", help="beep for a new critical alert")
    add("--screenshot", type=Path, metavar="FILE", help="write a picture of the window and end")
    add("--size", default="", metavar="WxH", help="size of the window, e.g. 1600x960")
    add("--version", action="version", version=f"%(prog)s {program.version()}")
    return found


def cache_path() -> Path:
    """One cache for all fleets: rows are kept by server."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("trefoil-console")) / "cache.db"


def view_of(arguments: argparse.Namespace) -> View:
    """Raises ValueError with the words to show."""
    end = parse_moment(arguments.at) if arguments.at else None
    return View(
        window_s=parse_span(arguments.window),
        end_s=end,
        measure=arguments.measure,
        expected_stamp=arguments.expect,
    )


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    words = f"{program.name()}: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=words, stream=sys.stderr)
    try:
        view = view_of(arguments)
        size = _size(arguments.size)
        servers = [check_address(server) for server in arguments.servers]
        servers = _again(arguments) if arguments.again else servers
    except ValueError as error:
        print(f"{program.name()}: {error}", file=sys.stderr)
        return 2
    if not servers and not arguments.offline:
        words = "name a server (HOST:PORT), or --offline for the cache"
        print(f"{program.name()}: {words}", file=sys.stderr)
        return 2
    lasting = not (arguments.offline or arguments.again or arguments.screenshot)
    if servers and lasting:
        last.remember(_last(arguments, servers), last.path())
    return _run(arguments, view, servers, size)


def _last(arguments: argparse.Namespace, servers: list[str]) -> last.Last:
    """Names of files made absolute: a menu starts programs elsewhere."""
    files = [str(f.resolve()) if f else "" for f in (arguments.ca, arguments.token_file)]
    return last.Last(tuple(servers), bool(arguments.tls), *files)


def _again(arguments: argparse.Namespace) -> list[str]:
    """The servers of the last time, into `arguments` how they were reached. With none, the window
    opens on what the cache holds: a menu's entry must show something."""
    if arguments.servers:
        raise ValueError("--again takes no servers: it is for those of the last time")
    known = last.recall(last.path())
    servers = [check_address(server) for server in known.servers]
    arguments.offline = arguments.offline or not servers
    arguments.tls = arguments.tls or known.tls
    arguments.ca = arguments.ca or (Path(known.ca) if known.ca else None)
    arguments.token_file = arguments.token_file or (
        Path(known.token_file) if known.token_file else None
    )
    return servers


def check_address(text: str) -> str:
    """`HOST:PORT`, `[v6]:PORT`. Raises ValueError with what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r}: expected HOST:PORT")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: port {port!r} is not between 1 and 65535")
    return text


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--size {text!r}: expected WIDTHxHEIGHT")
    return int(width), int(height)


def _run(
    arguments: argparse.Namespace, view: View, servers: list[str], size: tuple[int, int] | None
) -> int:
    from PySide6.QtCore import QTimer
    from PySide6.QtGui import QGuiApplication
    from PySide6.QtWidgets import QApplication

    from console.bridge import Bridge
    from console.panels.look import Look
    from console.theme import THEMES
    from console.timeaxis import TimeAxis
    from console.window import Window

    # Three threads beside the UI's; a picture must not wait 5 ms for each of them in turn.
    sys.setswitchinterval(0.001)
    application = QApplication(sys.argv[:1])
    application.setApplicationName("trefoil-console")
    application.setApplicationVersion(program.version())
    QGuiApplication.setDesktopFileName("trefoil-console")  # whose icon and name a desktop shows
    application.setStyle("Fusion")
    name = arguments.theme if arguments.theme != "auto" else _system_theme()
    look = Look(THEMES[name])
    bridge = Bridge(
        arguments.cache or cache_path(),
        None if arguments.offline else servers,
        _access(arguments),
        limit_bytes=arguments.cache_limit_mb << 20,
    )
    axis = TimeAxis(view)
    window = Window(bridge, axis, look)
    window.use_theme(name)
    window.notices.sound = arguments.sound
    window.given = _given(arguments)
    window.resize(*(size or _fitting()))
    bridge.look(view)
    bridge.start()
    window.show()
    if arguments.panel or arguments.filter:
        panel = arguments.panel or "predictions"
        key = arguments.filter if panel == "predictions" else ""
        QTimer.singleShot(0, lambda: window.jump(panel, key, float("nan")))
    if arguments.screenshot is not None:
        _picture_soon(window, arguments.screenshot)
    signal.signal(signal.SIGINT, lambda *_: application.quit())
    wake = QTimer()  # Python sees a signal only between two of its own instructions
    wake.start(200)
    wake.timeout.connect(lambda: None)
    try:
        return application.exec()
    finally:
        bridge.close()


def _given(arguments: argparse.Namespace) -> frozenset[str]:
    """What the command line says of the window: it overrules what is remembered."""
    asked = {
        "size": bool(arguments.size or arguments.screenshot),
        "page": bool(arguments.panel or arguments.filter or arguments.screenshot),
        "theme": arguments.theme != "auto",
    }
    return frozenset(name for name, given in asked.items() if given)


def _access(arguments: argparse.Namespace) -> Access | None:
    if not (arguments.tls or arguments.ca or arguments.token_file):
        return None
    from console.feed.address import Access

    return Access(bool(arguments.tls or arguments.ca), arguments.ca, arguments.token_file)


def _system_theme() -> str:
    from PySide6.QtCore import Qt
    from PySide6.QtGui import QGuiApplication

    light = QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Light
    return "light" if light else "dark"


def _fitting() -> tuple[int, int]:
    from PySide6.QtGui import QGuiApplication

    screen = QGuiApplication.primaryScreen().availableGeometry()
    return min(1600, screen.width()), min(960, screen.height())


def _picture_soon(window: Window, path: Path) -> None:
    """Once the servers have answered, and nothing has been missing for two seconds."""
    from PySide6.QtCore import QTimer

    began = time.monotonic()
    timer = QTimer(window)
    settled = 0

    def look() -> None:
        nonlocal settled
        settled = settled + 1 if window.board is not None and _whole(window.board) else 0
        if settled >= 8 or time.monotonic() - began > PICTURE_WITHIN_S:
            timer.stop()
            window.grab().save(str(path))
            window.close()

    timer.timeout.connect(look)
    timer.start(250)


def _whole(board: Board) -> bool:
    """Every server has answered or is lost, and what was sent is written and compared."""
    unsure = any(line.link.state in ("connecting", "catching up") for line in board.servers)
    compared = board.comparison is not None or not board.drift
    return not unsure and not board.usage.rows_waiting and compared


if __name__ == "__main__":
    sys.exit(main())
