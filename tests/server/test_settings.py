"""Flags, environment and file: which one takes precedence, what is refused, and what is printed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from server.commands.settings import SettingInvalid, Settings, as_toml, settings_of
from server.config import ServerConfig
from server.main import parser
from server.values import MIB
from tests.support.running import ROOT, asked

Captured = pytest.CaptureFixture[str]


def read(*arguments: str, **environment: str) -> Settings:
    return settings_of(parser(), arguments, environment)


def test_a_flag_comes_before_the_environment_the_file_and_the_default(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('warm-pool = 4\nname = "file"\nqueue_limit = 9\ngrace = 1.5\ninsecure = true\n')
    named = ("--config", str(file), "--warm-pool", "2")
    settings = read(*named, TREFOIL_WARM_POOL="3", TREFOIL_NAME="env", TREFOIL_INSECURE="false")
    config = settings.config
    assert (config.warm_pool, config.name, config.queue_rows) == (2, "env", 9)
    assert (config.drain_s, config.insecure, config.device) == (1.5, False, "auto")
    assert settings.sources["warm-pool"] == "flag" and settings.sources["name"] == "environment"
    assert settings.sources["grace"] == str(file) and "device" not in settings.sources


def test_without_any_the_defaults_hold_and_an_empty_variable_is_not_set() -> None:
    assert read(TREFOIL_NAME="", TREFOIL_FLAGS="--x").config == ServerConfig()


def test_units_and_negative_switches_are_those_of_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max-message-mb = 2.5\nno-telemetry = true\n")
    config = read(TREFOIL_CONFIG=str(file)).config
    assert (config.max_message_bytes, config.telemetry) == (int(2.5 * MIB), False)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("warmpool = 2", "there is no setting 'warmpool'; did you mean warm-pool?"),
        ("warm-pool = 0", "warm-pool: '0': expected a whole number of at least 1"),
        ("warm-pool = [2]", "expected a text, a number or a switch"),
        ("insecure = 3", "expected true or false"),
        ("warm-pool 2", "not TOML"),
    ],
)
def test_what_a_file_may_not_hold(content: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(content)
    with pytest.raises(SettingInvalid) as caught:
        read("--config", str(file))
    assert complaint in str(caught.value) and str(file) in str(caught.value)


def test_a_wrong_variable_and_a_missing_file_are_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TREFOIL_WARM_POOL", "none")
    code, _, err = asked(capsys, "--print-config")
    assert code == 2 and "TREFOIL_WARM_POOL: 'none': expected a whole number" in err
    monkeypatch.delenv("TREFOIL_WARM_POOL")
    code, _, err = asked(capsys, "--config", "/no/such.toml")
    assert code == 2 and "--config /no/such.toml: No such file" in err


def test_what_is_printed_can_be_read_back(tmp_path: Path, capsys: Captured) -> None:
    arguments: tuple[str, ...] = (
        "--name",
        'a "b" \\ c',
        "--no-memory-check",
        "--sample-share",
        "0.0512345678",
    )
    arguments += ("--simulated-time", "2026-11-02T00:00Z,4000", "--tls-cert", "a b.pem")
    arguments += ("--max-message-mb", "2.5", "--on-alert", "page --to 7")
    code, out, _ = asked(capsys, *arguments, "--print-config")
    assert code == 0 and "warm-pool = 1  # default" in out and 'listen = "' in out
    assert tomllib.loads(out)["no-memory-check"] is True
    file = tmp_path / "printed.toml"
    file.write_text(out)
    again = read("--config", str(file))
    assert again.config == read(*arguments).config
    assert tomllib.loads(as_toml(again)) == tomllib.loads(out)


@pytest.mark.parametrize("command", ["server", "pipelines", "console"])
def test_each_command_has_a_version(command: str) -> None:
    module = "console.app.main" if command == "console" else f"{command}.main"
    arguments = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{command} 0.1"), done.stderr


def test_help_states_the_order(capsys: Captured) -> None:
    _, out, _ = asked(capsys, "--help")
    assert "Flags take precedence over the environment" in out and "TREFOIL_WARM_POOL" in out


def test_a_command_that_does_not_exist_names_the_one_that_is_alike(capsys: Captured) -> None:
    code, _, err = asked(capsys, "actvate")
    assert code == 2 and err.endswith("; did you mean activate?\n")
