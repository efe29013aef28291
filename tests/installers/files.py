"""Checks the texts in installers/gpu-host (or a copy): quick, without root, nothing is started."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.installers.tools import ROOT, Failed, Skipped, attempt, need, run, tail

UNIT = "trefoil-server.service"
MOST_EXPOSURE = 2.0  # of 10; systemd calls what is below "OK"
# What the unit is ordered after. `systemd-analyze verify` wants to see them in the same tree.
NEEDED_UNITS = ("sysinit", "basic", "network-online", "network", "shutdown")


def unit_is_understood(folder: Path) -> str:
    """systemd-analyze ends well even where it has warned, so any word of it counts."""
    need("systemd-analyze")
    with _installed(folder) as root:
        units = root / "usr/lib/systemd/system"
        units.mkdir(parents=True)
        for name in NEEDED_UNITS:
            target = f"{name}.target"
            shutil.copy(Path("/usr/lib/systemd/system") / target, units / target)
        program = root / "opt/trefoil/current/bin/server"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        done = attempt(["systemd-analyze", "verify", "--man=no", f"--root={root}", UNIT])
        if done.returncode or tail(done):
            raise Failed(f"systemd-analyze verify: {tail(done)}")
    return "systemd-analyze verify reports nothing against it"


def unit_is_hardened(folder: Path) -> str:
    need("systemd-analyze")
    shown = run(["systemd-analyze", "security", "--offline=true", "--no-pager", folder / UNIT])
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    if found is None or float(found[1]) > MOST_EXPOSURE:
        raise Failed(f"exposure above {MOST_EXPOSURE}:\n{shown[-1500:]}")
    return f"exposure {found[1]} of 10 (at most {MOST_EXPOSURE})"


def accounts_and_directories_are_made(folder: Path) -> str:
    need("systemd-sysusers", "systemd-tmpfiles")
    with _installed(folder) as root:
        run(["systemd-sysusers", f"--root={root}", "trefoil.conf"])
        user, group = (
            next(line.split(":") for line in (root / file).read_text().splitlines())
            for file in ("etc/passwd", "etc/group")
        )
        if user[0] != "trefoil" or group[0] != "trefoil":
            raise Failed(f"made {user} and {group}")
        # tmpfiles takes names from this machine; with numbers it needs none.
        rules = root / "etc/tmpfiles.d/trefoil.conf"
        rules.write_text(
            re.sub(r"\btrefoil (trefoil) -", "0 0 -", rules.read_text())
            .replace("root trefoil", "0 0")
            .replace("root root", "0 0")
        )
        key = root / "etc/trefoil/tls/server.key"
        key.parent.mkdir(parents=True)
        key.touch(mode=0o600)
        run(["systemd-tmpfiles", f"--root={root}", "--create", "trefoil.conf"])
        modes = {
            name: oct((root / name).stat().st_mode & 0o7777)
            for name in ("etc/trefoil/tls", "etc/trefoil/tls/server.key", "var/lib/trefoil")
        }
        if list(modes.values()) != ["0o750", "0o640", "0o700"]:
            raise Failed(f"modes {modes}")
    return "user, group, directories and their modes"


def flags_are_known(folder: Path) -> str:
    """Of the unit, its settings and the compose file: the server's own parser has to take them."""
    from server.commands.flags import config_of
    from server.main import parser

    lines = re.findall(r'^#?TREFOIL_FLAGS="(.*)"$', (folder / "server.env").read_text(), re.M)
    commands = [shlex.split(line) for line in lines]
    commands.append(shlex.split(_execution(folder))[1:-1])
    commands.append(
        [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in _service(folder)["command"]]
    )
    for command in commands:
        try:
            config_of(parser().parse_args(command))
        except SystemExit:
            raise Failed(f"server does not take {shlex.join(command)}") from None
    if len(commands) < 4:
        raise Failed("server.env lost its examples")
    return f"{len(commands)} command lines"


def grace_is_waited_for(folder: Path) -> str:
    """Who stops the server has to wait longer than the server lets accepted work take."""
    from server.config import ServerConfig

    unit_s = float(_settings(folder)["TimeoutStopSec"])
    compose_s = float(str(_service(folder)["stop_grace_period"]).removesuffix("s"))
    grace_s = ServerConfig().drain_s
    if min(unit_s, compose_s) < 2 * grace_s:
        raise Failed(f"stopped after {unit_s:g} s and {compose_s:g} s; --grace is {grace_s:g} s")
    return f"{unit_s:g} s and {compose_s:g} s for a grace of {grace_s:g} s"


def compose_is_valid(folder: Path) -> str:
    """The last docker-compose in Python knows all of the schema but the project's name."""
    service = _service(folder)
    wanted: dict[str, Any] = {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "user": "10001:10001",
    }
    wrong = {name: service.get(name) for name in wanted if service.get(name) != wanted[name]}
    if wrong:
        raise Failed(f"not hardened: {wrong}")
    need("docker-compose")
    text = (folder / "compose.yaml").read_text()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "compose.yaml"
        copy.write_text(re.sub(r"^name:.*$", "", text, flags=re.M))
        run(["docker-compose", "-f", copy, "config", "--quiet"])
    return "hardened, and docker-compose takes it"


def containerfile_is_clean(folder: Path) -> str:
    need("hadolint")
    run(["hadolint", folder / "Containerfile"])
    return "hadolint finds nothing"


def libraries_are_locked(folder: Path) -> str:
    """requirements.txt pins all the server asks for, as the bundle's own libraries are pinned."""
    locked = pins(folder / "requirements.txt")
    stamped = pins(ROOT / "constraints.txt")
    project, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for folder in (".", "clients/python")
    )
    extra = project["optional-dependencies"]["server"]
    asked = [*project["dependencies"], *extra, *client["dependencies"]]
    names = {_name(re.split(r"[<>=;\[ ]", line)[0]) for line in asked} - {client["name"]}
    absent = sorted(names - set(locked))
    differing = sorted(name for name, version in stamped.items() if locked.get(name) != version)
    if absent or differing:
        raise Failed(f"requirements.txt: absent {absent}, not as in constraints.txt {differing}")
    return f"{len(locked)} libraries, {len(stamped)} of them as in constraints.txt"


def pins(path: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = (line.split("==") for line in lines if line)
    return {_name(name): version for name, version in pairs}


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


@contextmanager
def _installed(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as root:
        run([folder / "install.sh", "--files-only", root])
        yield Path(root)


def _settings(folder: Path) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in (folder / UNIT).read_text().splitlines() if "=" in line)
    return {pair[0]: pair[1] for pair in pairs if not pair[0].startswith("#")}


def _execution(folder: Path) -> str:
    return _settings(folder)["ExecStart"]


def _service(folder: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Skipped("not installed: PyYAML") from None
    return yaml.safe_load((folder / "compose.yaml").read_text())["services"]["server"]  # type: ignore[no-any-return]


CHECKS = (
    unit_is_understood,
    unit_is_hardened,
    accounts_and_directories_are_made,
    flags_are_known,
    grace_is_waited_for,
    compose_is_valid,
    containerfile_is_clean,
    libraries_are_locked,
)
