"""`console HOST:PORT …`: opens the window, and ends every thread when it closes."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from console.app.arguments import (
    check_access,
    check_address,
    follow_link,
    parser,
    size_of,
    view_of,
)
from console.state import program, recent_servers
from console.state.access import FILES, ConnectionAccess
from console.state.dashboard import Board, View

if TYPE_CHECKING:
    from console.app.bridge import Bridge
    from console.app.timeaxis import TimeAxis
    from console.app.window import Window
    from console.plots.style import Style

FAILED, USAGE = 1, 2
LOCAL = "127.0.0.1:8433"  # the address where a server listens by default
PICTURE_WITHIN_S = 90.0  # a screenshot is taken after this time, even if some servers never answer


def cache_path() -> Path:
    """The path of the cache. One file serves all fleets, as its rows are kept by server."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("trefoil-console")) / "cache.db"


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    text = f"{program.name()}: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=text, stream=sys.stderr)
    try:
        linked = follow_link(arguments, lambda: recent_servers.recall(recent_servers.path()))
        view = view_of(arguments)
        size = size_of(arguments.size)
        check_access(arguments)
        servers = servers_of(arguments)
        _need_display(arguments)
    except ValueError as error:
        print(f"{program.name()}: {error}", file=sys.stderr)
        return USAGE
    passing = linked or arguments.offline or arguments.again or arguments.screenshot
    lasting = arguments.servers and not passing
    if lasting:
        last = recent_servers.RecentServers(tuple(servers), _access(arguments))
        recent_servers.remember(last, recent_servers.path())
    return _run(arguments, view, servers, size)


def servers_of(arguments: argparse.Namespace) -> list[str]:
    """The named servers; without any, those of the previous start; without those, the one on this
    machine. Raises ValueError for a malformed address."""
    if arguments.again:
        return _again(arguments)
    named = [check_address(server) for server in arguments.servers]
    if named or arguments.offline:
        return named
    return _recalled(arguments) or [LOCAL]


def _again(arguments: argparse.Namespace) -> list[str]:
    """The servers of the previous start; how they were reached goes into `arguments`. Without any,
    the window opens on the cache: started from a desktop menu, the console must show something."""
    if arguments.servers:
        raise ValueError("--again takes no servers: it reuses those of the previous start")
    servers = _recalled(arguments)
    arguments.offline = arguments.offline or not servers
    return servers


def _recalled(arguments: argparse.Namespace) -> list[str]:
    """The servers of the previous start; how they were reached goes into `arguments`."""
    known = recent_servers.recall(recent_servers.path())
    servers = [check_address(server) for server in known.servers]
    arguments.tls = arguments.tls or known.access.tls
    for name in FILES:
        setattr(arguments, name, getattr(arguments, name) or getattr(known.access, name))
    return servers


def _need_display(arguments: argparse.Namespace) -> None:
    """Without a display Qt would abort the process. A screenshot needs none. Raises ValueError."""
    if sys.platform != "linux" or os.environ.get("QT_QPA_PLATFORM"):
        return
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    if arguments.screenshot is None:
        raise ValueError(
            "there is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set): start it in a "
            "desktop session, under xvfb-run, or with --screenshot FILE"
        )
    os.environ["QT_QPA_PLATFORM"] = "offscreen"


def _run(
    arguments: argparse.Namespace, view: View, servers: list[str], size: tuple[int, int] | None
) -> int:
    from PySide6.QtCore import QTimer
    from PySide6.QtGui import QGuiApplication
    from PySide6.QtWidgets import QApplication

    from console.app.bridge import Bridge
    from console.app.theme import THEMES
    from console.app.timeaxis import TimeAxis
    from console.plots.style import Style

    # Three threads run beside the UI thread; a screenshot must not wait 5 ms for each in turn.
    sys.setswitchinterval(0.001)
    application = QApplication(sys.argv[:1])
    application.setApplicationName("trefoil-console")
    application.setApplicationVersion(program.version())
    # The desktop shows the icon and name of this entry.
    QGuiApplication.setDesktopFileName("trefoil-console")
    application.setStyle("Fusion")
    name = arguments.theme if arguments.theme != "auto" else _system_theme()
    style = Style(THEMES[name])
    bridge = Bridge(
        arguments.cache or cache_path(),
        None if arguments.offline else servers,
        _access(arguments),
        limit_bytes=arguments.cache_limit_mb << 20,
    )
    axis = TimeAxis(view)
    window = open_window(bridge, axis, style)
    window.use_theme(name)
    window.notices.sound = arguments.sound
    window.status_bar.runbooks = arguments.runbooks
    window.given = _given(arguments)
    window.resize(*(size or _fitting()))
    window.use_zoom(0)
    bridge.show_view(view)
    bridge.start()
    window.show()
    # Modules and the window live on: later collections (garbage.py) need not visit them.
    gc.freeze()
    if arguments.panel or arguments.filter:
        panel = arguments.panel or "predictions"
        key = arguments.filter if panel == "predictions" else ""
        QTimer.singleShot(0, lambda: window.jump(panel, key, float("nan")))
    if arguments.screenshot is not None:
        _picture_soon(window, arguments.screenshot)
    signal.signal(signal.SIGINT, lambda *_: application.quit())
    wake = QTimer()  # Python handles a signal only between two of its own instructions
    wake.start(200)
    wake.timeout.connect(lambda: None)
    try:
        return application.exec()
    finally:
        bridge.close()


def open_window(
    bridge: Bridge, axis: TimeAxis, style: Style, clock: Callable[[], float] = time.time
) -> Window:
    """The window with its actions, which are its child, and with every command."""
    from console.app.actions import Actions
    from console.app.keys import commands_of
    from console.app.navigation import Navigation
    from console.app.window import Window

    window = Window(bridge, axis, style, clock)
    navigation = Navigation(window, bridge, axis, clock)
    window.add_commands(commands_of(window, Actions(window, bridge, axis, clock), navigation))
    return window


def _given(arguments: argparse.Namespace) -> frozenset[str]:
    """What the command line sets for the window; it overrides the saved layout."""
    asked = {
        "size": bool(arguments.size or arguments.screenshot),
        "page": bool(arguments.panel or arguments.filter or arguments.screenshot),
        "theme": arguments.theme != "auto",
    }
    return frozenset(name for name, given in asked.items() if given)


def _access(arguments: argparse.Namespace) -> ConnectionAccess:
    files = (getattr(arguments, name) for name in FILES)
    return ConnectionAccess(bool(arguments.tls or arguments.ca), *files)


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
    """Take the screenshot once the servers have answered and no rows have been missing for two
    seconds."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    began = time.monotonic()
    timer = QTimer(window)
    settled = 0

    def check() -> None:
        nonlocal settled
        settled = settled + 1 if window.board is not None and _whole(window.board) else 0
        if settled >= 8 or time.monotonic() - began > PICTURE_WITHIN_S:
            timer.stop()
            if window.grab().save(str(path)):
                window.close()
                return
            text = "the folder is missing, or the ending names no kind of picture (.png does)"
            print(f"{program.name()}: cannot write {path}: {text}", file=sys.stderr)
            QApplication.exit(FAILED)

    timer.timeout.connect(check)
    timer.start(250)


def _whole(board: Board) -> bool:
    """Whether every server has answered or is lost, and everything sent is written and compared."""
    unsure = any(line.link.state in ("connecting", "catching up") for line in board.servers)
    compared = board.comparison is not None or not board.drift
    return not unsure and not board.usage.rows_waiting and compared


if __name__ == "__main__":
    import trefoil_serve

    sys.exit(trefoil_serve.console())
