"""Store and pools together: what a restart would serve, what is removed, and going back."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from proto import admin_pb2, admin_pb2_grpc
from server.deploy.bundle_store import BundleStore
from server.errors import DeployRefused
from tests.support.running import channel_to, listener, until
from tests.support.stub_bundles import ROOMY, site
from tests.support.stub_replica import work

FULL = (550 << 20, "available on this host")  # one replica more, not two
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


async def test_a_restart_serves_what_was_activated_last(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("b")
        assert found.deployment.store.current.stamp == A  # type: ignore[union-attr]
        done = await found.deployment.activate(B)
        assert done.switch is not None and done.switch.took_s < 1e-3
    store = BundleStore(tmp_path / "bundles")
    assert (store.current.stamp, store.previous.stamp) == (B, A)  # type: ignore[union-attr]
    assert found.actions == ["load", "activate"]


async def test_load_and_activate_is_one_call(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        steps = await found.load("b", activate=True)
        assert steps[-1].switch is not None and steps[-1].stamp == B
        assert "blue-green: two pools fit" in found.engine.snapshot().reasons["swap"]


async def test_what_nothing_refers_to_is_removed_and_reported(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        found.deployment.keep = 1
        store = found.deployment.store
        for letter in "bcd":
            steps = await found.load(letter, activate=True)
        # d serves, c is warm and previous, b is the newest of the others, a goes.
        assert [bundle.stamp[0] for bundle in store.bundles()] == ["b", "c", "d"]
        assert f"right+{'a' * 12}" in steps[-1].detail
        assert found.recorded[-1][0] == "collect" and "a" * 12 in found.recorded[-1][2]


async def test_what_was_served_from_elsewhere_is_kept_to_go_back_to(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        store = found.deployment.store
        found.engine.facts  # noqa: B018 - what serves came from the store; see it as foreign:
        (tmp_path / "bundles" / "current").unlink()
        await found.load("b", activate=True)
        assert store.previous is not None and store.previous.stamp == A


async def test_going_back_after_the_standby_is_over_loads_it_again(tmp_path: Path) -> None:
    async with site(tmp_path, standby_s=0.0) as found:
        await found.load("b", activate=True)
        await until(lambda: found.engine.pool_set.standby is None)
        with pytest.raises(DeployRefused) as refusal:
            await found.deployment.roll_back("worse at site b")
        assert refusal.value.check == "cold"
        steps = await found.roll_back_cold("worse at site b")
        assert steps[-1].switch is not None and steps[-1].switch.stamp == A
        assert [step.name for step in steps].count("loading") > 0
        assert (await found.engine.predict(work("r", "x"))).stamp == A
        assert found.recorded[-1] == ("rollback", "a", "worse at site b")
        assert found.deployment.store.current.stamp == A  # type: ignore[union-attr]


async def test_the_standby_is_not_kept_where_a_dead_replica_could_not_come_back(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as found:
        await found.load("b")
        found.room = (100 << 20, "available on this host")
        await found.deployment.activate(B)
        await until(lambda: found.engine.pool_set.standby is None)
        assert "not kept" in found.engine.snapshot().reasons["standby"]


async def test_the_standby_makes_room_for_a_candidate(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("b", activate=True)
        assert found.engine.pool_set.standby is not None
        pool_set, tight = found.engine.pool_set, (100 << 20, "available on this host")
        pool_set.available = lambda: tight if pool_set.standby is not None else ROOMY
        steps = await found.load("c")
        assert any("standby ends" in step.detail for step in steps)
        assert found.engine.pool_set.candidate is not None


async def test_two_pools_that_do_not_fit_are_refused_with_the_remedy(tmp_path: Path) -> None:
    async with site(tmp_path, replicas=2) as found:
        found.room = FULL
        with pytest.raises(DeployRefused, match="at most 1 fit; --swap rolling"):
            await found.load("b")
        assert found.actions == ["refuse"]


async def test_a_bundle_that_waits_is_given_up_for_the_next_one(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("b")
        await found.load("c")
        with pytest.raises(DeployRefused, match="not loaded"):
            await found.deployment.activate(B)
        await found.deployment.activate(C)


async def test_a_disk_that_cannot_be_written_does_not_undo_a_switch(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("b")

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        found.deployment.store.activate = full  # type: ignore[method-assign,assignment]
        done = await found.deployment.activate(B)
        assert "A RESTART DOES NOT SERVE IT" in done.detail
        assert (await found.engine.predict(work("r", "x"))).stamp == B


async def test_a_damaged_copy_does_not_stand_in_for_the_whole_bundle(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        store = found.deployment.store
        with pytest.raises(DeployRefused, match="digest of weights"):
            await found.load("b", "refused")
        assert [bundle.stamp[0] for bundle in store.bundles()] == ["a"]
        await found.load("b")  # the same stamp, whole
        assert (await found.deployment.activate(B)).stamp == B


async def test_two_rollbacks_do_not_serve_what_was_rolled_back(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        await found.load("b", activate=True)
        await found.deployment.roll_back("worse")
        with pytest.raises(DeployRefused, match="was rolled back last: `server activate bbb"):
            await found.deployment.roll_back("worse, by another")
        with pytest.raises(DeployRefused, match="was rolled back last"):
            await found.roll_back_cold("worse, by a third")
        assert (await found.engine.predict(work("r", "x"))).stamp == A
        await found.deployment.activate(B)
        assert (await found.deployment.roll_back("again")).stamp == A


async def test_reasons_against_an_activation_are_distinguished(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        with pytest.raises(DeployRefused, match="aaaaaaaaaaaa is being served already"):
            await found.deployment.activate(A)
        with pytest.raises(DeployRefused, match="cccccccccccc is not loaded; nothing is"):
            await found.deployment.activate(C)


async def test_a_restart_ends_where_the_replica_gives_its_place_to_another_bundle(
    tmp_path: Path,
) -> None:
    async with (
        site(tmp_path) as found,
        listener(found.engine) as address,
        channel_to(address) as channel,
    ):
        call = admin_pb2_grpc.AdminStub(channel).Restart(admin_pb2.RestartRequest(replica=0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                await found.engine.pool_set.active.close(0, 0.0)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "its place went to another bundle" in str(caught.value.details())
