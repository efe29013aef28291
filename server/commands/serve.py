"""Runs a server, from the flags to the exit code: listen, load, report progress, drain on a
signal."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import TYPE_CHECKING

from server import host
from server.api.listen_address import CannotListen
from server.api.listener import Listener, checked, checked_address
from server.api.snapshot_messages import ServerIdentity
from server.commands.flags import flags_of
from server.config import CHOOSE, EMBEDDED_BUNDLE, ServerConfig
from server.deploy import restamped
from server.deploy.boot_choice import BootChoice, FailedBoot, after, choices
from server.deploy.bundle_store import FOLDER, BundleStore
from server.deploy.deployment import Deployment
from server.deploy.expected_stamp import ExpectedStamp
from server.deploy.journal import DeployJournal, analysis_of
from server.engine import Engine
from server.errors import DeployRefused, PoolRefused
from server.host import version
from server.ops import event_log, leaving
from server.ops.access_control import (
    AccessControl,
    access_of,
    check_payload_key,
    credentials_of,
    tls_files,
)
from server.ops.freed_memory import FreedMemory
from server.ops.host_figures import HostWatch, host_reader
from server.ops.loop_lag import LoopLag
from server.ops.otel_setup import OtelSetup
from server.ops.own_alerts import OwnAlerts, OwnTrouble
from server.ops.simulated_clock import SimulatedWall
from server.ops.skew_alert import SkewAlert
from server.ops.startup_log import Report, StartupLog
from server.ops.systemd import ServiceManager, service_manager
from server.pool.forks import ForkServerClient
from server.pool.pool import Pool
from server.pool.spawn import DIGESTS, fork_server, holder_command, replica_spawner
from server.pool.weight_holders import weight_holders
from server.request.limits import server_limits
from server.telemetry_port import OFF, TelemetryPort, telemetry_of
from server.types import Facts

if TYPE_CHECKING:
    from server.http.listener import HttpListener

logger = logging.getLogger(__name__)

HTTP_LIBRARIES = ("uvicorn", "httptools", "python_multipart")
OK = 0
REFUSED = 78  # EX_CONFIG of sysexits.h: the bundle or the pool cannot be served
# After the drain only watch streams are left.
LAST_CALLS_S = 0.5
# Time requested from a service manager beyond the grace: replicas end, telemetry is written.
TO_END_S = 30.0

Wall = Callable[[], float]


def run(config: ServerConfig) -> int:
    """Serve; returns the exit code. Raises CannotListen before anything is loaded."""
    log = event_log.install(sys.stdout, config.log_format, config.log_level)
    try:
        return _run(config)
    finally:
        event_log.uninstall(log)


def _run(config: ServerConfig) -> int:
    if sys.__stderr__ is not None:
        faulthandler.enable(
            sys.__stderr__
        )  # a watchdog aborts a process that hangs: then report where it hung
    manager = service_manager(os.environ)

    def report(line: str, level: int = INFO, /) -> None:
        logger.log(level, "%s", line)
        manager.status(line)

    if config.bundle != CHOOSE and not (config.bundle / "manifest.json").is_file():
        report(f"refused: {config.bundle} is not a bundle: it has no manifest.json", ERROR)
        return REFUSED
    if config.verify:
        (config.data / DIGESTS).unlink(missing_ok=True)
    return asyncio.run(_serve(config, report, manager))


async def _serve(config: ServerConfig, report: Report, manager: ServiceManager) -> int:
    # Everything that the flags alone can show to be wrong, before anything is opened or written.
    credentials = credentials_of(config)
    checked_address(config, credentials is not None)
    make_http = _http_listener(config, credentials is not None)
    access = access_of(config)
    check_payload_key(config)
    lame_duck_s, _ = leaving.lame_duck_s(config.lame_duck_s, bool(manager.address), os.environ)
    to_end_s = lame_duck_s + config.drain_s + TO_END_S
    stop = leaving.Stop(report, partial(manager.stopping, to_end_s), lame_duck_s)
    identity, wall = identity_of(config), wall_of(config)
    otel = OtelSetup(config, identity, wall=wall)
    telemetry = await asyncio.to_thread(_telemetry, config, wall, otel)
    journal = DeployJournal(telemetry, wall)
    forks = fork_server(config)
    build = partial(pool_of, wall=wall, exited=journal.replica_exited, forks=forks)
    store = _store(config, report)
    expected = ExpectedStamp(config.expect_stamp, config.expect_from)
    tries = choices(config.bundle, store, config.data, expected.stored(store))
    first = build(replace(config, bundle=tries[0].path))
    recorder = otel.recorder(telemetry)
    engine = Engine(config, first, recorder, wall=wall, build=build, withheld=expected.withheld)
    engine.pool_set.check = journal.adopt
    deployment = _deployment(engine, config, journal, store)
    figures = HostWatch(partial(host_reader, config.data), lambda: engine.snapshot().replicas)
    listener = Listener(
        engine,
        config,
        identity,
        leave=stop.request,
        interceptors=otel.interceptors(access.guards),
        credentials=credentials,
        deployment=deployment,
        telemetry=telemetry,
        host=lambda: figures.latest,
        wall=wall,
    )
    watching: list[asyncio.Task[None]] = []
    lag = LoopLag()
    http_listener: HttpListener | None = None
    try:
        address = await listener.start()
        if make_http is not None:
            http_listener = make_http(listener, otel)
            http = await http_listener.start()
        stop.install(engine)
        lag.start()
        limit = http_listener.limit if http_listener is not None else None
        otel.watch(engine, listener.budget, lag, limit, address, lambda: figures.latest)
        watching.append(asyncio.create_task(figures.run()))
        report(f"listening on {address}; loading {tries[0].path}, {tries[0].reason}")
        if http_listener is not None:
            report(f"HTTP on {http}")
        report(*_kept(telemetry, config))
        for line in (*otel.messages, *access.messages):
            report(line)
        watching.append(asyncio.create_task(StartupLog(engine, address, report).run()))
        watching.append(asyncio.create_task(manager.attend(engine)))
        watching.append(asyncio.create_task(SkewAlert(engine, telemetry).run()))
        if deployment is not None:
            watching.append(asyncio.create_task(expected.obey(deployment)))
        watching.append(asyncio.create_task(_own_alerts(telemetry, access, lag).run()))
        boot = partial(_boot, engine, journal, tries, config, report)
        return await _run_until_stopped(engine, boot, stop, config, report)
    finally:
        lag.stop()
        for task in watching:
            task.cancel()
        journal.stop(engine.facts)
        if deployment is not None:
            await deployment.stop()
        await _stopped(listener, http_listener)
        await engine.stop()
        if forks is not None:
            await forks.close()
        await asyncio.to_thread(telemetry.close)
        await otel.close()
        access.close()


async def _stopped(listener: Listener, http_listener: HttpListener | None) -> None:
    """Stop both ports: open requests there have the same time to end."""
    ends = [listener.stop(LAST_CALLS_S)]
    if http_listener is not None:
        ends.append(http_listener.stop(LAST_CALLS_S))
    await asyncio.gather(*ends)


def _http_listener(
    config: ServerConfig, encrypted: bool
) -> Callable[[Listener, OtelSetup], HttpListener] | None:
    """A function that makes the HTTP port once the gRPC port has started; None without --http.

    Raises CannotListen for an address that cannot be used, or when the libraries are missing.
    """
    if not config.http:
        return None
    try:
        from server.http.listener import FLAG, HttpListener
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in HTTP_LIBRARIES:
            raise
        raise CannotListen(f"--http needs {library}: pip install 'trefoil-serve[http]'") from None
    address = checked(config.http, config.insecure or encrypted, FLAG)
    files = tls_files(config) if encrypted else None

    def made(listener: Listener, otel: OtelSetup) -> HttpListener:
        instruments = otel.instruments
        exposition = instruments.exposition if instruments is not None else None
        return HttpListener(config, listener, address, files, exposition)

    return made


async def _run_until_stopped(
    engine: Engine,
    boot: Callable[[], Coroutine[None, None, None]],
    stop: leaving.Stop,
    config: ServerConfig,
    report: Report,
) -> int:
    stop_requested = asyncio.create_task(stop.wait(engine))
    starting = asyncio.create_task(boot())
    await asyncio.wait((stop_requested, starting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return OK
    try:
        await starting
    except (PoolRefused, DeployRefused) as refusal:
        report(f"refused: {refusal}{_remedy(config)}", ERROR)
        stop_requested.cancel()
        return REFUSED
    # What was imported lives as long as the process. Full collections over it, 200,000 objects,
    # stopped the event loop for 64 to 143 ms each, most often while many calls came at once.
    gc.collect()
    gc.freeze()
    await stop_requested
    await engine.drain(config.drain_s)
    report("drained")
    return OK


def _remedy(config: ServerConfig) -> str:
    """What to do when the bundle that the store last served cannot be served."""
    if config.bundle != CHOOSE or not (config.data / FOLDER / "current").is_symlink():
        return ""
    return (
        f"; no other bundle is served in its place: name one with --bundle, or see what is kept "
        f"with: server bundles --data {config.data}"
    )


async def _boot(
    engine: Engine,
    journal: DeployJournal,
    tries: Sequence[BootChoice],
    config: ServerConfig,
    report: Report,
) -> None:
    """Start with the first bundle that can be served.

    Raises PoolRefused or DeployRefused, of the last bundle tried, when none can be served.
    """
    tried: list[FailedBoot] = []
    left = list(tries)
    while left:
        choice = left.pop(0)
        chosen = after(choice, tried)
        engine.pool_set.notes["bundle"] = chosen.reason
        if tried:
            report(f"FALLING BACK TO {chosen.path}: {chosen.reason}", WARNING)
            await engine.pool_set.begin_with(chosen.path)
        try:
            await _start(engine, journal)
            return
        except (PoolRefused, DeployRefused) as refusal:
            if not left and (again := await _restamped(choice, refusal, config, report)):
                left.append(again)
            if not left:
                raise
            report(f"REFUSED {choice.path}, {choice.reason}: {refusal}", WARNING)
            journal.switched("refuse", None, f"{choice.path.name} at start: {refusal}")
            tried.append(FailedBoot(choice, str(refusal)))


async def _restamped(
    choice: BootChoice, refusal: PoolRefused | DeployRefused, config: ServerConfig, report: Report
) -> BootChoice | None:
    """A copy of the embedded bundle for these libraries; None where the refusal stands, as it does
    for every bundle given by name.

    Raises PoolRefused when the golden answers differ, or nothing can be written.
    """
    ours = (EMBEDDED_BUNDLE, config.data / restamped.UNLINKED)
    unnamed = config.bundle == CHOOSE and choice.path in ours
    if not unnamed or refusal.check != restamped.CHECK:
        return None
    report("the embedded bundle was stamped with other libraries: proving it with those installed")
    return BootChoice(
        await restamped.restamp(choice.path, config.data),
        "the embedded one, restamped for the installed libraries after its golden answers were "
        "proved",
    )


async def _start(engine: Engine, journal: DeployJournal) -> None:
    """Start with this engine. Raises PoolRefused or DeployRefused."""
    await engine.start()
    assert engine.facts is not None  # otherwise it would have been refused
    await journal.start(engine.facts)


def _telemetry(config: ServerConfig, wall: Wall, otel: OtelSetup) -> TelemetryPort:
    instruments = otel.instruments
    if instruments is None:
        return telemetry_of(config, wall)
    telemetry = telemetry_of(config, wall, instruments.alerted, instruments.sampled)
    instruments.follow(telemetry.standing)
    return telemetry


def _kept(telemetry: TelemetryPort, config: ServerConfig) -> tuple[str, int]:
    """A line for the log and its level."""
    state = telemetry.health().state
    if state == "ok":
        return f"telemetry is kept in {config.data} for {config.keep_days:g} days", INFO
    if state == OFF:
        return "telemetry is off: nothing is kept", INFO
    return f"TELEMETRY IS DEGRADED: {state.partition(': ')[2]}", WARNING


def _store(config: ServerConfig, report: Report) -> BundleStore | None:
    """The store; None when there is no place for bundles: the named bundle is served all the
    same."""
    try:
        return BundleStore(config.data / FOLDER)
    except OSError as error:
        report(f"NO OTHER BUNDLE CAN BE LOADED: {error}", WARNING)
        return None


def _deployment(
    engine: Engine, config: ServerConfig, journal: DeployJournal, store: BundleStore | None
) -> Deployment | None:
    if store is None:
        return None
    return Deployment(engine.pool_set, store, journal.switched, analysis_of, config.keep_bundles)


def wall_of(config: ServerConfig) -> Wall:
    """The clock that dates telemetry's rows; deadlines stay on the monotonic clock."""
    return SimulatedWall(*config.simulated_time) if config.simulated_time else time.time


def pool_of(
    config: ServerConfig,
    wall: Wall = time.time,
    exited: Callable[[Facts, str], None] = lambda facts, why: None,
    forks: ForkServerClient | None = None,
) -> Pool:
    holders = weight_holders(config, holder_command, os.environ)
    spawn = replica_spawner(config, forks, holders)
    return Pool(config, spawn, wall=wall, exited=exited, holders=holders)


def identity_of(config: ServerConfig) -> ServerIdentity:
    return ServerIdentity(
        name=config.name or socket.gethostname(),
        version=version(),
        instance=secrets.token_hex(8),
        flags=flags_of(config),
        limits=server_limits(config),
        insecure=config.insecure and config.tls_cert is None,
        slo_ms=config.slo_ms,
        simulated_speed=config.simulated_time[1] if config.simulated_time else 0.0,
    )


def _own_alerts(telemetry: TelemetryPort, access: AccessControl, lag: LoopLag) -> OwnAlerts:
    troubles = [
        OwnTrouble("server/loop", "warning", lambda: lag.trouble),
        OwnTrouble("server/descriptors", "high", host.descriptor_trouble),
    ]
    chores: list[Callable[[], None]] = [FreedMemory().look]
    if (tokens := access.tokens) is not None:
        troubles.append(OwnTrouble("server/tokens", "high", lambda: tokens.trouble))
        chores.append(tokens.look)
    if (audit := access.audit) is not None:
        troubles.append(OwnTrouble("server/audit", "high", lambda: audit.trouble))
        chores.append(audit.settle)
    return OwnAlerts(telemetry, troubles, chores)
