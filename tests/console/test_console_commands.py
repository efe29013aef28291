"""Every command line that the console copies, given to the parser of the command that it names."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from console.app import arguments
from console.app.window import Window
from console.state import command_lines, program
from console.state.access import ConnectionAccess
from console.state.dashboard import View
from server.main import COMMANDS
from server.telemetry.filters import parse_filter
from server.telemetry.store import filter_sql
from tests.console.test_console_window import T0, actions_of, kept, make

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")

PLAIN = ConnectionAccess()
SECURE = ConnectionAccess(
    True, *(Path(f"/etc/{name}") for name in ("my ca.pem", "token", "c.pem", "k.pem"))
)
SYSTEM_CA = ConnectionAccess(True)
HOSTILE = "x; rm -rf ~ $(id) 'y"
LINE = 'site="line 4" conf<0.6 server=gpu-1 label!=ok !kept'


def parsed(line: str) -> dict[str, object]:
    """The arguments as the command sees them; ends the test when it would refuse them."""
    name, *text = shlex.split(line)
    if name == program.name():
        found = arguments.parser().parse_args(text)
        arguments.view_of(found)
        parse_filter(found.filter)
        return dict(vars(found))
    assert name == "server" and text[0] in COMMANDS, line
    command = importlib.import_module(f"server.commands.{text[0].replace('-', '_')}")
    found = command.parser().parse_args(text[1:])
    if "filter" in found:
        filter_sql.where(parse_filter(found.filter))
    return dict(vars(found))


@pytest.mark.parametrize("reach", [PLAIN, SECURE, SYSTEM_CA])
@pytest.mark.parametrize("server", ["10.0.0.1:8433", "[::1]:8433"])
def test_every_line_is_taken_by_the_command_it_names(server: str, reach: ConnectionAccess) -> None:
    shown = View(window_s=600, measure="ks", expected_stamp="a b")
    span = (T0 - 600.4, T0 + 0.4)
    seen = parsed(command_lines.view(shown, span, "predictions", LINE, [server, "b:1"], reach))
    assert seen["servers"] == [server, "b:1"] and seen["filter"] == LINE
    assert (seen["measure"], seen["expect"], seen["tls"]) == ("ks", "a b", reach.tls)
    seen = parsed(command_lines.around_alert(server, T0, reach))
    assert (seen["panel"], seen["servers"]) == ("alerts", [server])
    assert parsed(command_lines.skew_between([server, "b:1"], reach))["servers"] == [server, "b:1"]
    seen = parsed(command_lines.status(server, reach))
    assert (seen["server"], seen["tls_ca"]) == (server, reach.ca)
    seen = parsed(command_lines.replay(server, HOSTILE, reach))
    assert (seen["id"], seen["server"]) == (HOSTILE, server)


@pytest.mark.parametrize("line", ["", "error", LINE, "client='a*b'", 'client="$(id)"'])
def test_an_export_chooses_the_rows_of_the_panel(line: str) -> None:
    seen = parsed(command_lines.export(parse_filter(line), (T0 - 600.4, T0 + 0.4)))
    wanted = [clause for clause in parse_filter(line) if clause.name != "server"]
    assert list(parse_filter(str(seen["filter"]))) == wanted
    assert float(str(seen["since"])) <= T0 - 600.4 and float(str(seen["until"])) >= T0 + 0.4


def test_what_each_panel_copies_is_taken(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    clipboard = QApplication.clipboard()
    named: dict[str, str] = {}
    for name in window.panels:
        window.focus_panel(name)
        if name == "predictions":
            window.predictions.select(LINE.replace("server=gpu-1 ", ""))
        focus = window.focused_panel().focus_target()
        qtbot.keyClick(focus, Qt.Key.Key_J)
        clipboard.clear()
        actions_of(window).copy_command()
        parsed(clipboard.text())
        named[name] = " ".join(shlex.split(clipboard.text())[:2])
    assert named["fleet"] == "server status" and named["predictions"] == "server export"
    actions_of(window).copy_view()
    assert parsed(clipboard.text())["servers"]
