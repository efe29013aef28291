"""The console's actions on servers: real listeners, by role, on one server and on all or none."""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from console.app.window import Window
from console.feed import action_calls
from console.panels.action_dialog import ActionDialog
from console.state import action_kinds
from console.state.access import PLAIN, ConnectionAccess
from console.state.action_kinds import KINDS, LABEL
from console.state.domain import Action
from server.main import COMMANDS
from tests.console.test_console_window import actions_of, live, make, stand_in
from tests.server.test_fleet import A, B, fleet_of, stamps
from tests.support.observe_stand_in import Fleet
from tests.support.patience import patience_ms
from tests.support.secure_listener import secure_listener

__all__ = ["make"]  # its fixture
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


def action(kind: str, *servers: str, target: str = "", note: str = "p99 doubled") -> Action:
    return Action(0, " ".join(servers), kind, target, "kim", note)


async def test_a_loaded_bundle_is_activated_and_rolled_back_with_name_and_reason(
    tmp_path: Path,
) -> None:
    async with fleet_of(tmp_path, "north") as servers:
        address = servers[0].address
        await servers[0].site.load("b")
        found = await action_calls.bundles(address, PLAIN, "kim")
        assert [(stamp, roles) for stamp, _, roles in found] == [(B, "loaded")]
        state, detail = await action_calls.perform(action("activate", address, target=B), PLAIN)
        assert (state, stamps(servers)) == ("done", [B]), detail
        assert servers[0].site.recorded[-1] == ("activate", "b", "p99 doubled")
        state, detail = await action_calls.perform(action("rollback", address), PLAIN)
        assert (state, stamps(servers)) == ("done", [A]), detail
        assert servers[0].site.recorded[-1] == ("rollback", "a", "p99 doubled")


async def test_a_canary_is_started_and_ended_and_none_is_refused(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north") as servers:
        (north,) = servers
        state, detail = await action_calls.perform(action("canary-end", north.address), PLAIN)
        assert state == "refused" and "no canary runs here" in detail
        assert stamps(servers) == [A], "it did not roll back instead"
        await north.site.load("b")
        found = await action_calls.bundles(north.address, PLAIN, "kim", KINDS["canary"].bundles)
        assert [stamp for stamp, _, _ in found] == [B]
        asked = action("canary", north.address, target=TARGETS["canary"], note="try it")
        state, detail = await action_calls.perform(asked, PLAIN)
        assert state == "done" and "10% of the sessions for 30 min" in detail
        done, stamp, why = north.site.recorded[-1]
        assert (done, stamp) == ("canary", "b") and why.startswith("try it; 10%")
        state, detail = await action_calls.perform(action("canary-end", north.address), PLAIN)
        assert (state, stamps(servers)) == ("done", [A]), detail
        assert north.site.recorded[-1][0] == "canary-rolled-back"


async def test_a_replica_is_restarted_with_name_and_reason(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north") as servers:
        (north,) = servers
        pool = north.site.engine.pool_set.active
        before = pool.statuses()[0]
        asked = action("restart", north.address, target="0", note="it leaks")
        state, detail = await action_calls.perform(asked, PLAIN)
        assert state == "done" and detail.startswith("replica 0 "), detail
        after = pool.statuses()[0]
        assert after.restarts == before.restarts + 1 and after.pid != before.pid
        assert "restart asked for by kim" in after.last_exit and "it leaks" in after.last_exit
        assert north.site.recorded[-1] == ("restart", "", "replica 0: it leaks")
        asked = action("restart", north.address, target="7")
        state, detail = await action_calls.perform(asked, PLAIN)
        assert state == "refused" and "there is no replica 7" in detail


async def test_what_is_stored_can_be_rehearsed_and_what_serves_cannot(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north") as servers:
        (north,) = servers
        await north.site.load("b")
        found = await action_calls.bundles(north.address, PLAIN, "kim", KINDS["rehearse"].bundles)
        assert [stamp for stamp, _, _ in found] == [B]
        state, detail = await action_calls.perform(
            action("rehearse", north.address, target=A), PLAIN
        )
        assert state == "refused" and "serves already" in detail
        against = action("replay-against", north.address, target=f"id{LABEL}{'c' * 64}")
        state, detail = await action_calls.perform(against, PLAIN)
        assert state == "refused" and "cccccccccccc is not loaded" in detail
        against = action("replay-against", north.address, target=f"id{LABEL}{B}")
        assert "there is no prediction id" in (await action_calls.perform(against, PLAIN))[1]


async def test_the_fleet_switches_as_one_or_stays_as_it_is(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north", "south") as servers:
        addresses = [server.address for server in servers]
        await servers[0].site.load("b")
        asked = action("activate", *addresses, target=B)
        state, detail = await action_calls.perform(asked, PLAIN)
        assert (state, stamps(servers)) == ("refused", [A, A])
        assert "has not loaded bbbbbbbbbbbb; nothing has changed" in detail
        await servers[1].site.load("b")
        assert (await action_calls.perform(asked, PLAIN))[0] == "done"
        assert stamps(servers) == [B, B]
        assert (await action_calls.perform(action("rollback", *addresses), PLAIN))[0] == "done"
        assert stamps(servers) == [A, A]


async def test_those_that_switched_go_back_when_one_fails(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north", "south", forgetful=("south",)) as servers:
        for server in servers:
            await server.site.load("b")
        asked = action("activate", *(server.address for server in servers), target=B)
        state, detail = await action_calls.perform(asked, PLAIN)
        assert (state, stamps(servers)) == ("refused", [A, A]), detail
        assert "failed on south" in detail and "nothing has changed" in detail
        done, stamp, why = servers[0].site.recorded[-1]
        assert (done, stamp) == ("rollback", "a") and "failed on south" in why


async def test_a_credential_without_the_role_gets_a_sentence(tmp_path: Path) -> None:
    async with secure_listener(tmp_path, mutual=True) as site:
        mine = site.pem / "client-observe"
        access = ConnectionAccess(
            True, site.pem / "ca.pem", None, mine.with_suffix(".pem"), mine.with_suffix(".key")
        )
        for kind in [kind.name for kind in KINDS.values() if kind.role == "admin"]:
            if kind == "replay":
                continue  # a predict credential may do it where payloads may be read
            asked = action(kind, site.address, target=TARGETS.get(kind, ""))
            state, detail = await action_calls.perform(asked, access)
            assert state == "refused"
            assert detail.startswith("your credential may not do that: it needs the role admin")
        with pytest.raises(action_calls.ActionRefused, match="needs the role admin"):
            await action_calls.bundles(site.address, access, "kim")


async def test_what_nobody_answers_is_refused_without_text_of_grpc() -> None:
    for kind in KINDS:
        asked = action(kind, "127.0.0.1:1", target=TARGETS.get(kind, ""))
        state, detail = await action_calls.perform(asked, PLAIN)
        assert (state, detail) == ("refused", "connection refused"), kind


SECURE = ConnectionAccess(True, Path("/etc/my ca.pem"), Path("/etc/token"))


TARGETS = {
    "activate": B,
    "canary": LABEL.join((B, "0.1", "30")),
    "rehearse": B,
    "restart": "1",
    "feedback": f"id{LABEL}ok",
    "replay": "id",
    "replay-against": f"id{LABEL}{B}",
}


@pytest.mark.parametrize("access", [PLAIN, SECURE])
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_equal_to_its_command(kind: str, access: ConnectionAccess) -> None:
    target = TARGETS.get(kind, "")
    for servers in (["a:1"], ["a:1", "b:1"])[: 2 if KINDS[kind].whole else 1]:
        name, *text = shlex.split(
            action_kinds.command(action(kind, *servers, target=target), access)
        )
        assert name == "server" and text[0] in COMMANDS
        module = "fleet.command" if text[0] == "fleet" else text[0]
        command = importlib.import_module(f"server.commands.{module}")
        found = vars(command.parser().parse_args(text[1:]))
        assert found["tls_ca"] == access.ca
        assert found.get("servers", [found.get("server")]) == servers
        if KINDS[kind].role == "admin" and not KINDS[kind].prediction:
            assert found["reason"] == "p99 doubled"
        if kind == "canary":
            assert (found["stamp"], found["canary"], found["canary_minutes"]) == (B, 0.1, 30)
        if kind == "canary-end":
            assert text[0] == "rollback" and found["canary_only"]
        if kind == "restart":
            assert found["replica"] == 1
        if kind == "replay-against":
            assert (found["id"], found["stamp"]) == ("id", B)
        if kind == "feedback":
            assert (found["id"], found["label"]) == ("id", "ok")


def test_the_dialog_says_what_happens_and_does_nothing_without_a_reason(
    qtbot: QtBot, make: Callable[..., Window]
) -> None:
    with Fleet([stand_in(0), stand_in(3)]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        window.server.select(fleet.addresses[0])
        actions_of(window).ask("rollback")
        dialog = next(w for w in window.findChildren(ActionDialog) if w.isVisible())
        assert dialog.sentence.text().startswith("gpu-01.lon switches back to the previous bundle")
        assert not dialog.confirm.isEnabled()
        dialog.scope.setCurrentIndex(1)
        assert dialog.sentence.text().startswith("Each of 2 servers (gpu-01.lon, gpu-01.fra)")
        assert dialog.command.text().startswith("server fleet rollback")
        dialog.scope.setCurrentIndex(0)
        qtbot.keyClicks(dialog.reason, "drill")
        assert dialog.confirm.isEnabled()
        with qtbot.waitSignal(window.bridge.acted, timeout=patience_ms(20)) as answered:
            dialog.confirm.click()
        # This server has no Admin service: the refusal is journalled with name and reason.
        assert answered.args is not None and answered.args[1] == "refused"
        assert answered.args[2] == "this server is too old for that"

        def journalled() -> bool:
            found = [e for e in window.board.timeline_events if e.kind == "action"]  # type: ignore[union-attr]
            return bool(found) and "drill" in found[0].text and found[0].severity == "warning"

        qtbot.waitUntil(journalled, timeout=patience_ms(10))
        assert "refused" in window.footer.text
        assert QApplication.activeModalWidget() is None


@pytest.mark.parametrize(
    ("asked_ago_s", "began_ago_s", "why"),
    [
        (60.0, 300.0, "this server is too old for that"),
        (1.0, 0.0, "the console was closed meanwhile: the events show whether it was done"),
    ],
    ids=["a slow console sends it", "a later console does not"],
)
def test_an_action_is_sent_by_the_console_that_was_asked(
    qtbot: QtBot,
    make: Callable[..., Window],
    asked_ago_s: float,
    began_ago_s: float,
    why: str,
) -> None:
    with Fleet([stand_in(0)]) as fleet:
        window = make(fleet.addresses)
        qtbot.waitUntil(lambda: live(window), timeout=patience_ms(20))
        now = time.time()
        window.bridge._began_s = now - began_ago_s
        asked = replace(action("rollback", *fleet.addresses), at_s=now - asked_ago_s)
        with qtbot.waitSignal(window.bridge.acted, timeout=patience_ms(20)) as answered:
            window.bridge.add(asked)
        assert answered.args is not None and answered.args[1:] == ["refused", why]
