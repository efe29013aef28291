"""Every problem of the status line has a next step and a runbook, and the commands in them
exist."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from console.app.arguments import parser
from console.app.window import Window
from console.panels.dialogs import PageDialog
from console.state import next_steps, status_messages
from console.state.events import PANEL_OF
from console.state.next_steps import NEXT
from console.state.severity import HARM_OF
from server.main import COMMANDS
from tests.console.test_console_window import actions_of, kept, make
from tests.support.patience import patience_ms

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")
ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "runbooks"
T0 = 1_790_003_000.0


def test_each_kind_has_one_page_with_meaning_checks_and_actions() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(NEXT)
    assert set(HARM_OF) | set(PANEL_OF) <= set(NEXT)
    for kind in NEXT:
        text = next_steps.page(kind)
        assert re.search(r"^# .+\n\n\*\*What it means\.\*\* ", text), kind
        assert "\n**Check.**\n" in text and "\n**Do.** " in text, kind
        assert len(text) < 1600, f"{kind}: too long for the night"


def commands() -> list[tuple[str, str]]:
    found = []
    for page in sorted(PAGES.glob("*.md")):
        lines = page.read_text().splitlines()
        found += [(page.stem, line.strip()) for line in lines if line.startswith("    server ")]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_commands_of_the_pages_are_taken(page: str, line: str) -> None:
    _, name, *text = shlex.split(line)
    assert name in COMMANDS, page
    module = "fleet.command" if name == "fleet" else name.replace("-", "_")
    importlib.import_module(f"server.commands.{module}").parser().parse_args(text)


def test_every_message_that_needs_somebody_has_a_next_step() -> None:
    """A message is made with a kind, or needs nothing."""
    source = Path(status_messages.__file__).read_text()
    kinds = set(re.findall(r'kind="(\w+)"|_odd\("(\w+)"', source))
    named = {kind for pair in kinds for kind in pair if kind}
    assert (
        named <= set(NEXT)
        and {"held", "pending", "healthy", "lost", "skew", "readiness", "clock", "rows"} <= named
    )


def test_the_status_line_says_what_is_next_and_opens_the_page(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), clock=lambda: T0 + 5)
    worst = window.board.fleet_state.worst  # type: ignore[union-attr]
    assert worst is not None
    assert f" · next: {NEXT[worst.kind].look}" in window.status_bar._sentence.text
    button = next(b for b in window.status_bar._buttons if b.message.kind == worst.kind)
    assert f"docs/runbooks/{worst.kind}.md" in button.toolTip()
    shown = [b for b in window.status_bar._buttons if b.message.text]
    assert len(shown) > 2
    for each in shown:  # what only counts has them as well
        assert "\nnext: " in each.toolTip(), each.message
        assert f"docs/runbooks/{each.message.kind}.md" in each.toolTip(), each.message
    with qtbot.waitSignal(window.bridge.runbookRead, timeout=patience_ms(10)):
        actions_of(window).runbook()
    dialog = window.findChild(PageDialog)
    assert isinstance(dialog, PageDialog)
    assert "What it means." in dialog.page.toPlainText()
    dialog.close()


def test_pages_of_your_own_are_named_instead() -> None:
    base = parser().parse_args(["--runbooks", "https://wiki.example/trefoil/"]).runbooks
    assert next_steps.address(base, "skew") == "https://wiki.example/trefoil/skew.md"
