"""`server fleet` over real connections: a bundle is activated on every server or on none."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Container
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from proto import admin_pb2
from server.api.listener import Listener
from server.commands.client import CommandConnection
from server.commands.fleet import command
from server.commands.fleet.members import Member, look_all, verdict
from server.commands.fleet.switch import Fleet
from server.config import CHOOSE, ServerConfig
from server.deploy.boot_choice import choices
from server.deploy.bundle_store import BundleStore
from server.deploy.deployment import Deployment
from server.deploy.expected_stamp import ExpectedStamp
from tests.support.patience import patience
from tests.support.running import IDENTITY, until
from tests.support.stub_bundles import ForgetfulDeployment, Site, site, stub_bundle
from tests.support.stub_replica import work

A, B = "a" * 64, "b" * 64


@dataclass(slots=True)
class Standing:
    """A server of the fleet: what is behind it, and its way out."""

    address: str
    site: Site
    listener: Listener


@asynccontextmanager
async def fleet_of(
    folder: Path, *names: str, forgetful: Container[str] = ()
) -> AsyncIterator[list[Standing]]:
    """Servers that serve stub bundle `a`, each with a store of its own; the `forgetful` ones lose
    what they have loaded before they can activate it."""
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            (folder / name).mkdir()
            kind = ForgetfulDeployment if name in forgetful else Deployment
            one = await stack.enter_async_context(site(folder / name, deployment=kind))
            listener = Listener(
                one.engine,
                replace(ServerConfig(), listen="127.0.0.1:0"),
                replace(IDENTITY, name=name),
                leave=lambda: None,
                deployment=one.deployment,
            )
            found.append(Standing(await listener.start(), one, listener))
            stack.push_async_callback(listener.stop, 0)
        yield found


@asynccontextmanager
async def members_of(servers: list[Standing]) -> AsyncIterator[list[Member]]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(CommandConnection(s.address)) for s in servers]
        yield [Member(s.address, c) for s, c in zip(servers, clients, strict=True)]


def fleet(members: list[Member], lines: list[str]) -> Fleet:
    return Fleet(members, patience(10), lines.append)


def stamps(servers: list[Standing]) -> list[str]:
    return [server.site.engine.facts.stamp for server in servers]  # type: ignore[union-attr]


async def test_a_bundle_is_activated_on_all_and_all_go_back(tmp_path: Path) -> None:
    lines: list[str] = []
    async with fleet_of(tmp_path, "north", "south", "west") as servers:
        for server in servers:
            await server.site.load("b")
        async with members_of(servers) as members:
            done = await fleet(members, lines).activate("bbbbbbbb", 0.0, 30.0)
            assert done.whole and stamps(servers) == [B] * 3
            assert lines == ["north: switched", "south: switched", "west: switched"]
            back = await fleet(members, lines).roll_back("worse at one site")
            assert back.whole and stamps(servers) == [A] * 3
    assert servers[0].site.recorded[-1] == ("rollback", "a", "worse at one site")


async def test_nothing_is_switched_while_one_server_has_not_loaded_it(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north", "south") as servers:
        await servers[0].site.load("b")
        async with members_of(servers) as members:
            done = await fleet(members, []).activate(B, 0.0, 30.0)
    assert not done.whole and done.same
    assert "south has not loaded bbbbbbbbbbbb" in done.reason
    assert "activate" not in servers[0].site.actions


async def test_when_one_refuses_to_switch_the_others_go_back_and_record_why(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    async with fleet_of(tmp_path, "north", "south", "west") as servers:
        for server in servers:
            await server.site.load("b")
        async with members_of(servers) as members:
            pool_set, activate = servers[1].site.engine.pool_set, members[1].activate

            async def too_late(request: admin_pb2.ActivateRequest) -> None:
                pool_set.discard()  # after the fleet has looked: another load, or memory ran out
                await activate(request)

            members[1].activate = too_late  # type: ignore[method-assign]
            done = await fleet(members, lines).activate(B, 0.0, 30.0)
        assert stamps(servers) == [A] * 3
    assert not done.whole and done.same and done.left == ()
    assert "failed on south" in done.reason
    assert "north: went back" in lines and "west: went back" in lines
    for server in (servers[0], servers[2]):
        action, stamp, detail = server.site.recorded[-1]
        assert (action, stamp) == ("rollback", "a") and "failed on south" in detail


async def test_a_server_that_vanishes_at_the_switch_is_named(tmp_path: Path) -> None:
    lines: list[str] = []
    async with fleet_of(tmp_path, "north", "south") as servers:
        for server in servers:
            await server.site.load("b")
        async with members_of(servers) as members:
            all_of_them = fleet(members, lines)
            activate = members[1].activate

            async def vanishes(request: admin_pb2.ActivateRequest) -> None:
                await activate(request)
                await servers[1].listener.stop(0)

            members[1].activate = vanishes  # type: ignore[method-assign]
            done = await all_of_them.activate(B, 0.0, 30.0)
        assert stamps(servers)[0] == A, "the one that is left went back"
    assert not done.whole and not done.same and done.left == ("south",)


async def test_a_canary_begins_and_ends_on_all(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north", "south") as servers:
        for server in servers:
            await server.site.load("b")
        async with members_of(servers) as members:
            done = await fleet(members, []).activate(B, 0.1, 30.0)
            assert done.whole and stamps(servers) == [A] * 2
            assert all(server.site.engine.pool_set.canary is not None for server in servers)
            back = await fleet(members, []).roll_back("enough seen")
            assert back.whole
            assert all(server.site.engine.pool_set.canary is None for server in servers)


async def test_the_verdict_names_mixed_stamps_and_servers_that_are_away(tmp_path: Path) -> None:
    async with fleet_of(tmp_path, "north", "south") as servers:
        async with members_of(servers) as members:
            await look_all(members, patience(10))
            assert verdict(members) == (True, "aaaaaaaaaaaa on 2 of 2 servers")
            await servers[1].site.load("b", activate=True)
            await look_all(members, patience(10))
            assert verdict(members)[1] == (
                "MIXED: aaaaaaaaaaaa on 1, bbbbbbbbbbbb on 1 of 2 servers"
            )
            await servers[1].listener.stop(0)
            await look_all(members, patience(10))
            good, sentence = verdict(members)
            assert not good and sentence == "1 of 2 serve; not: south"


async def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = await command._run(_parsed(*arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _parsed(*arguments: str) -> argparse.Namespace:
    found: argparse.Namespace = command.parser().parse_args(arguments)
    return found


async def test_the_command_loads_activates_and_writes_what_is_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = stub_bundle(tmp_path, "b")
    async with fleet_of(tmp_path, "north", "south") as servers:
        (tmp_path / "list").write_text("".join(f"{s.address}\n" for s in servers))
        targets = ("--servers", f"file:{tmp_path / 'list'}", "--timeout", str(patience(10)))
        code, out, _ = await ended(capsys, "load", str(bundle), *targets)
        assert code == 0 and "next: server fleet activate bbbbbbbbbbbb --servers" in out
        expected = tmp_path / "expected"
        code, out, _ = await ended(
            capsys, "activate", "bbbbbb", *targets, "--write-expected", str(expected)
        )
        assert code == 0 and expected.read_text() == f"{B}\n"
        code, out, _ = await ended(capsys, "status", *targets)
        assert code == 0 and "bbbbbbbbbbbb on 2 of 2 servers" in out
        await servers[0].listener.stop(0)
        code, _, err = await ended(capsys, "rollback", *targets)
        assert code == 1 and "nothing has changed" in err
    code, _, err = await ended(capsys, "status", "--servers", "file:/nowhere")
    assert code == 4 and "--servers" in err


def test_a_server_that_does_not_answer_fails_within_the_time() -> None:
    async def asked() -> Member:
        async def silent(_r: asyncio.StreamReader, _w: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3600)

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with CommandConnection(f"127.0.0.1:{port}") as client:
            member = Member("silent", client)
            await member.look(0.5)
        server.close()
        return member

    member = asyncio.run(asked())
    assert member.state == "UNREACHABLE" and member.note


async def test_a_server_of_a_fleet_serves_its_stamp_before_it_is_ready(tmp_path: Path) -> None:
    expected = ExpectedStamp(str(tmp_path / "fleet-stamp"))
    (tmp_path / "fleet-stamp").write_text(f"{B}\n")
    async with site(tmp_path) as one:
        engine = one.engine
        engine._withheld = expected.withheld
        await until(lambda: engine.snapshot().state == "NOT_READY")
        reason = engine.snapshot().reason
        assert "the fleet serves bbbbbbbbbbbb" in reason and "server load BUNDLE" in reason
        refused = await engine.predict(work("row", "hum"))
        assert refused.fault is not None and refused.fault.reason == "NOT_EXPECTED_STAMP"
        obeying = asyncio.create_task(expected.obey(one.deployment, 0.05))
        assert expected.stored(one.deployment.store) is None
        one.deployment.store.add(stub_bundle(tmp_path, "b"))  # as a person copies it there
        await until(lambda: engine.snapshot().state == "READY", 60)
        assert engine.facts is not None and engine.facts.stamp == B
        await obeying
        await one.load("c", activate=True)  # the operator's own decision from here on
        assert engine.snapshot().state == "READY"


def test_what_cannot_be_read_keeps_the_server_out_of_traffic(tmp_path: Path) -> None:
    assert ExpectedStamp("").withheld(A) == ""
    assert ExpectedStamp(A[:12]).withheld(A) == ""
    assert "cannot be read" in ExpectedStamp(str(tmp_path / "none")).withheld(A)
    (tmp_path / "bad").write_text("latest\n")
    assert "does not hold a stamp" in ExpectedStamp(str(tmp_path / "bad")).withheld(A)


def test_the_fleets_bundle_is_the_first_choice_at_start(tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    store.activate(store.add(stub_bundle(tmp_path, "a")))
    store.add(stub_bundle(tmp_path, "b"))
    first, second = choices(CHOOSE, store, tmp_path, ExpectedStamp(B[:12]).stored(store))
    assert first.path == store.find(B).path and "--expect-stamp" in first.reason
    assert second.reason == "the store's current"
    assert choices(CHOOSE, store, tmp_path, ExpectedStamp("c" * 64).stored(store)) == (second,)
