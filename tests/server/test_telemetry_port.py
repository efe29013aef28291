"""How the server gets its telemetry, and what it reports to it about the bundles that it serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from server.commands.serve import wall_of
from server.config import ServerConfig
from server.deploy.journal import DeployJournal, bundle_of
from server.errors import DeployRefused, ServerError
from server.main import main
from server.ops.simulated_clock import SimulatedWall
from server.routing.progress import Switch
from server.telemetry.rows import DeployRow
from server.telemetry.store.history import TimeSpan
from server.telemetry.telemetry import Telemetry
from server.telemetry_port import TelemetryPort, settings_of, telemetry_of
from server.types import Facts
from tests.support import ruled_replica
from tests.support.running import program
from tests.support.telemetry_bench import LABELS, NOW, SCHEMA, STAMP, Clock, bundle, record

ALWAYS = TimeSpan(0, 2 * NOW)


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """Of a bundle directory with a reference and an objective."""
    made, folder = bundle(rows=600), tmp_path / "bundle"
    (folder / "reference").mkdir(parents=True)
    (folder / "reference" / "profile.json").write_bytes(made.reference)
    (folder / "objective.json").write_bytes(made.objective)
    return replace(
        ruled_replica.facts(stamp=STAMP),
        labels=LABELS,
        features=SCHEMA,
        bundle_path=str(folder),
    )


def telemetry(tmp_path: Path, **flags: object) -> TelemetryPort:
    config = replace(ServerConfig(), data=tmp_path / "data", **flags)  # type: ignore[arg-type]
    return telemetry_of(config, Clock())


def journal(held: TelemetryPort) -> list[DeployRow]:
    held.feedback([])  # answered after what came before
    return [row for row in held.history(ALWAYS, ("deploy",)) if isinstance(row, DeployRow)]


def test_a_server_that_cannot_write_its_data_reports_it_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    held = telemetry(tmp_path)
    held.put(record(0), SCHEMA)
    assert held.health().state.startswith("degraded: ") and "data" in held.health().state
    held.close()


def test_the_whole_server_serves_when_it_can_write_nowhere(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    flags = ("--bundle", str(tiny_bundle), "--data", str(tmp_path / "data"))
    with program(*flags) as server:
        assert main(["predict", "--server", server.address, "--text", "hum"]) == 0
        assert main(["status", "--server", server.address]) == 0
        assert server.stop() == 0
    output = "\n".join(server.lines)
    assert "TELEMETRY IS DEGRADED" in output and "NO OTHER BUNDLE CAN BE LOADED" in output
    assert "DEGRADED: telemetry degraded: " in capsys.readouterr().out


def test_a_file_that_is_not_a_database_is_kept_aside_and_reported(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "telemetry.db").write_bytes(b"not a database at all" * 1000)
    held = telemetry(tmp_path)
    assert "set aside" in held.health().state
    held.close()
    kept = [p for p in (tmp_path / "data").iterdir() if "unusable" in p.name]
    assert [p.read_bytes()[:14] for p in kept] == [b"not a database"]


def test_telemetry_that_is_off_opens_nothing(tmp_path: Path) -> None:
    held = telemetry(tmp_path, telemetry=False)
    assert held.health().state == "off" and not (tmp_path / "data").exists()


def test_an_alert_command_that_is_no_command_line_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="--on-alert"):
        telemetry(tmp_path, on_alert="page 'unclosed")
    with pytest.raises(ServerError, match="--on-alert .*not an executable"):
        telemetry(tmp_path, on_alert="/nowhere/pager")


def test_a_baseline_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="--baseline"):
        telemetry(tmp_path, baseline="yesterday")


def test_flags_become_settings() -> None:
    config = replace(ServerConfig(), keep_days=3.0, max_telemetry_bytes=7, tick_s=60.0)
    found = settings_of(config)
    assert (found.limits.predictions_days, found.limits.payload_days) == (3.0, 3.0)
    assert (found.limits.max_bytes, found.tick_s) == (7, 60.0)


def test_simulated_time_is_telemetrys_clock_alone() -> None:
    wall = wall_of(replace(ServerConfig(), simulated_time=(NOW, 5000.0)))
    assert isinstance(wall, SimulatedWall) and NOW <= wall() < NOW + 5000 * 60
    assert wall_of(ServerConfig()) is time.time


async def test_what_is_served_is_recorded_from_start_to_stop(tmp_path: Path, facts: Facts) -> None:
    held = telemetry(tmp_path)
    deploys = DeployJournal(held, Clock())
    await deploys.start(facts)
    deploys.switched("activate", Switch("cd" * 32, "next", facts.stamp, 1e-6), "")
    deploys.switched("refuse", None, "speed: too slow")
    deploys.stop(facts)
    rows = journal(held)
    assert isinstance(held, Telemetry)
    held.close()
    assert [row.action for row in rows] == ["start", "activate", "refuse", "stop"]
    assert (rows[1].stamp, rows[1].from_stamp) == ("cd" * 32, facts.stamp)
    assert rows[2].detail == "speed: too slow" and rows[0].at_unix_ms == int(NOW * 1000)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda f: replace(f, features=f.features[1:]), "reference"),
        (lambda f: replace(f, labels=("ok", "stop")), "objective"),
    ],
)
async def test_a_bundle_whose_reference_or_objective_does_not_fit_is_refused(
    tmp_path: Path, facts: Facts, damage: Callable[[Facts], Facts], why: str
) -> None:
    held = telemetry(tmp_path)
    deploys = DeployJournal(held, Clock())
    with pytest.raises(DeployRefused, match=why):
        await deploys.start(damage(facts))
    deploys.stop(facts)
    actions = [row.action for row in journal(held)]
    held.close()
    assert actions == ["refuse"], "what never served does not stop"


def test_a_bundle_without_reference_or_objective_is_one(tmp_path: Path, facts: Facts) -> None:
    found = bundle_of(replace(facts, bundle_path=str(tmp_path)))
    assert (found.reference, found.objective, found.labels) == (b"", b"", LABELS)
