"""Bundles of a store whose replicas are stubs: their name sets how they behave.

`right`, `slow`, `wrong` are probes; `flaky` refuses every second row, `refused` is refused at load,
the second replica of `changed` finds another stamp.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from server.config import ServerConfig
from server.deploy.bundle_store import BundleStore, identify
from server.deploy.deployment import Deployment
from server.engine import Engine
from server.pool.pool import Pool
from server.routing.progress import Step, Switch
from server.telemetry.record import FeatureSpec, Record
from tests.support.running import until
from tests.support.stub_replica import stub_config, stub_pool

ROOMY = (1 << 40, "available on this host")


def stub_bundle(folder: Path, letter: str, name: str = "right") -> Path:
    """A bundle with the stamp `letter` x 64."""
    path = folder / f"{name}-{letter}"
    (path / "weights").mkdir(parents=True)
    (path / "weights" / "model.safetensors").write_bytes(letter.encode() * 100)
    (path / "manifest.json").write_text(json.dumps({"name": name, "stamp": letter * 64}))
    return path


def stub_of(config: ServerConfig) -> Pool:
    name, stamp = identify(config.bundle)
    if name == "refused":
        return stub_pool(config, refuse="the digest of weights differs")
    if name == "changed":
        return stub_pool(config, stamps=f"{stamp},{'9' * 64}")
    if name == "flaky":
        return stub_pool(config, stamps=stamp, fail_every=2)
    return stub_pool(config, stamps=stamp, probes=name)


@dataclass(slots=True)
class Site:
    """A server without its listener: engine, store and deployment, and the deploys they recorded.

    `room` is the free space that the host reports.
    """

    engine: Engine
    deployment: Deployment
    folder: Path
    recorded: list[tuple[str, str, str]] = field(default_factory=list)
    room: tuple[int, str] = ROOMY

    @property
    def actions(self) -> list[str]:
        return [action for action, _, _ in self.recorded]

    async def load(
        self, letter: str, name: str = "right", swap: str = "", activate: bool = False
    ) -> list[Step]:
        path = self.folder / f"{name}-{letter}"
        if not path.exists():
            stub_bundle(self.folder, letter, name)
        return await self._steps(self.deployment.load, path, swap, activate)

    async def roll_back_cold(self, reason: str) -> list[Step]:
        return await self._steps(self.deployment.roll_back_cold, reason, "")

    async def _steps(self, load: Callable[..., Awaitable[None]], *arguments: Any) -> list[Step]:
        steps: list[Step] = []
        await load(*arguments, steps.append)
        return steps


class Unkept:
    def put(self, record: Record, _schema: tuple[FeatureSpec, ...]) -> None:
        return


class ForgetfulDeployment(Deployment):
    """Loses the loaded bundle when it is asked to activate it: another load came between, or the
    memory ran out."""

    async def activate(self, stamp: str, reason: str = "") -> Step:
        self.pool_set.discard()
        return await super().activate(stamp, reason)


@asynccontextmanager
async def site(
    folder: Path, replicas: int = 1, deployment: type[Deployment] = Deployment, **settings: Any
) -> AsyncIterator[Site]:
    """Serves stub bundle `a` from the store."""
    store = BundleStore(folder / "bundles")
    first = store.add(stub_bundle(folder, "a"))
    store.activate(first)
    config = replace(stub_config(warm_pool=replicas, **settings), bundle=first.path)
    engine = Engine(config, stub_of(config), Unkept(), build=stub_of)
    found = Site(engine, deployment(engine.pool_set, store), folder)
    engine.pool_set.available = lambda: found.room

    def record(action: str, switch: Switch | None, detail: str) -> None:
        found.recorded.append((action, switch.stamp[:1] if switch else "", detail))

    found.deployment.record = record
    found.deployment.look_s = 0.05
    await engine.start()
    try:
        await until(lambda: engine.snapshot().state == "READY")
        yield found
    finally:
        await found.deployment.stop()
        await engine.stop()
