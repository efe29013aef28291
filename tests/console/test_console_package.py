"""The packed console, without building it: its files and their owners, and the files for the
desktop and apt. `make check-console-deb` builds and installs it."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from console.app.arguments import follow_link, parser
from console.app.main import main, servers_of
from console.feed.address import refused
from console.state import program, recent_servers
from console.state.access import ConnectionAccess
from console.state.recent_servers import RecentServers
from installers.console import contents, notices
from installers.console.components import COMPONENTS, QT_MODULES
from installers.console.control import control, renamed
from server.config import ServerConfig

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "installers/console"
MANUAL = (HERE / "trefoil-console.1").read_text().replace("\\-", "-")


def desktop() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(HERE / "trefoil-console.desktop")
    return found


def pins() -> dict[str, str]:
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_desktop_entry_starts_what_the_package_holds() -> None:
    entries = desktop()
    entry = entries["Desktop Entry"]
    assert entry["Type"] == "Application" and entry["Terminal"] == "false"
    assert entry["TryExec"] == contents.PROGRAM
    assert entry["StartupWMClass"] == contents.WINDOW_CLASS
    assert (HERE / f"{entry['Icon']}.svg").exists()
    for section in entries.sections():
        name, *flags = entries[section]["Exec"].split()
        assert name == contents.PROGRAM
        known = parser().parse_args(flags)
        assert known.again or known.offline  # neither needs a server's name
    assert "x-scheme-handler/trefoil" in entry["MimeType"].split(";")
    link = "trefoil://10.0.0.1:8433/latency?window=30m"
    name, *flags = entry["Exec"].replace("%u", link).split()
    opened = parser().parse_args(flags)
    assert follow_link(opened, RecentServers) and opened.servers == ["10.0.0.1:8433"]
    for action in filter(None, entry["Actions"].split(";")):
        assert f"Desktop Action {action}" in entries


def test_metainfo_tells_what_the_project_tells() -> None:
    root = ElementTree.parse(HERE / "org.trefoil.console.metainfo.xml").getroot()
    assert root.tag == "component" and root.get("type") == "desktop-application"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert root.findtext("project_license") == project["license"]
    assert root.findtext("launchable") == f"{contents.PROGRAM}.desktop"
    assert root.findtext("provides/binary") == contents.PROGRAM
    release = root.find("releases/release")
    assert release is not None and release.get("version") == project["version"]
    from console.app.window import LEAST_WIDTH

    assert root.findtext("requires/display_length") == str(LEAST_WIDTH)


def test_icon_is_a_drawing_of_our_own_in_one_size() -> None:
    root = ElementTree.parse(HERE / "trefoil-console.svg").getroot()
    assert root.get("viewBox") == "0 0 128 128"
    text = (HERE / "trefoil-console.svg").read_text()
    assert "href" not in text and "<image" not in text


def test_manual_names_every_option_and_no_other() -> None:
    options = set(re.findall(r"(--[a-z-]+)", parser().format_help()))
    reported = set(re.findall(r"^\.B[IR]? \"?(?:-h \", \" )?(--[a-z-]+)", MANUAL, re.MULTILINE))
    assert reported == options


def test_control_file_is_one_that_dpkg_reads() -> None:
    text = control("0.1.0", "amd64", 180_000, ["libc6 (>= 2.36)", "libegl1"])
    fields = dict(line.split(": ", 1) for line in text.splitlines() if line[:1].strip())
    assert fields["Package"] == contents.PROGRAM and fields["Installed-Size"] == "180000"
    assert fields["Depends"] == "libc6 (>= 2.36), libegl1"
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith(" "))
    assert text.endswith("\n") and "\n\n" not in text
    assert renamed("libssl3 (>= 3.0.0)") == "libssl3 (>= 3.0.0) | libssl3t64 (>= 3.0.0)"
    assert renamed("libx11-6") == "libx11-6"


def test_every_module_of_the_server_that_the_console_takes_is_named() -> None:
    found: set[str] = set()
    left = [*(ROOT / "console").rglob("*.py")]
    while left:
        for node in ast.walk(ast.parse(left.pop().read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("server"):
                continue
            for name in (node.module or "", *(f"{node.module}.{one.name}" for one in node.names)):
                file = ROOT / f"{name.replace('.', '/')}.py"
                if name not in found and file.is_file():
                    found.add(name)
                    left.append(file)
    assert "server.telemetry.rows" in found
    assert notices.unnamed([], sorted(found)) == []


def test_notices_name_every_module_of_qt_that_is_packed() -> None:
    named = {module.library for module in QT_MODULES if module.library}
    assert named == set(contents.QT_LIBRARIES)
    plugins = [plugin for module in QT_MODULES for plugin in module.plugins]
    assert sorted(plugins) == sorted(p for found in contents.QT_PLUGINS.values() for p in found)
    text = notices.text(versions=False)
    for library in contents.QT_LIBRARIES:
        assert f"libQt6{library}.so.6" in text
    assert "How to replace Qt" in text and "_internal/PySide6/Qt/lib" in text
    lesser = (HERE / "licences/LGPL-3.0.txt").read_text()
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in lesser and "Version 3" in lesser


def test_every_component_has_its_text() -> None:
    for component in COMPONENTS:
        assert component.texts or component.distribution, component.name
        for name in component.texts:
            assert (HERE / "licences" / name).stat().st_size > 1000
        if component.distribution:
            known = {"trefoil-serve", "numpy", "scipy", *pins()}
            assert component.distribution in known, component.name


def test_a_file_nobody_names_stops_the_build() -> None:
    assert (
        notices.unnamed(
            ["PySide6/Qt/lib/libQt6Core.so.6"],
            ["json", "console.app.main", "server", "server.telemetry.drift.scores"],
        )
        == []
    )
    strangers = ["left_pad.core", "server.main"]
    assert notices.unnamed(["PySide6/Qt/lib/libfoo.so"], strangers) == [
        "PySide6/Qt/lib/libfoo.so",
        "module left_pad.core",
        "module server.main",
    ]


@pytest.mark.parametrize(
    ("name", "system", "kept"),
    [
        ("PySide6/Qt/lib/libQt6Gui.so.6", False, True),
        ("PySide6/Qt/lib/libQt6Qml.so.6", False, False),
        ("PySide6/Qt/lib/libQt6WaylandCompositor.so.6", False, False),
        ("PySide6/Qt/lib/libQt6Network.so.6", False, False),
        ("PySide6/Qt/plugins/platforms/libqxcb.so", False, True),
        ("PySide6/Qt/plugins/platforms/libqeglfs.so", False, False),
        ("PySide6/Qt/translations/qt_de.qm", False, False),
        ("PySide6/QtNetwork.abi3.so", False, False),
        ("PySide6/plugins/platforms/qwindows.dll", False, True),
        ("libxcb-cursor.so.0", True, False),
        ("libpython3.11.so.1.0", True, True),
        ("python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True, True),
        ("scipy/special/_ufuncs.so", False, True),
        ("scipy/linalg/_flapack.so", False, False),
        ("click-8.5.1.dist-info/RECORD", False, False),
    ],
)
def test_what_is_packed(name: str, system: bool, kept: bool) -> None:
    assert contents.belongs(name, system) is kept


def test_the_console_needs_no_module_that_is_left_out() -> None:
    """Everything it imports on a start and on a brushed window, in a process of its own."""
    code = (
        "import sys; import console.app.main, console.app.window, console.app.bridge,"
        " console.feed.hub, console.feed.link, console.app.media;"
        "import console.cache.drift, scipy.special, sqlite_utils;"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    out = [m for m in loaded for unused in contents.UNUSED if m == unused]
    assert out == []
    bindings = {m.split(".")[1] for m in loaded if m.startswith("PySide6.Qt")}
    assert bindings == set(contents.BINDINGS)
    for name in contents.HIDDEN:
        assert not any(fnmatchcase(name, f"{unused}*") for unused in contents.UNUSED), name


def test_versions_are_pinned_within_what_the_project_allows() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = pins()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["console"]]
    for requirement in map(Requirement, wanted):
        if requirement.name in known and "python_version >= '3.12'" not in str(requirement.marker):
            assert known[requirement.name] in requirement.specifier, requirement


def test_version_is_shown_and_again_needs_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"console {program.version()}\n"
    assert main(["--again", "10.0.0.1:8433"]) == 2
    assert "--again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--token-file", "token"], ["--cert", "me.pem", "--key", "me.key"], ["--tls", "--cert", "a"]],
)
def test_a_secret_without_tls_and_half_a_certificate_are_refused(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("token", "me.pem", "me.key", "a"):
        (tmp_path / name).write_text("x")
    assert main([*arguments, "10.0.0.1:8433"]) == 2
    assert "needs --tls" in (shown := capsys.readouterr().err) or "belong together" in shown


def test_a_server_that_hangs_up_at_once_may_want_tls_and_one_that_was_killed_does_not() -> None:
    message = "last error: UNAVAILABLE: ipv4:10.0.0.1:8433: Socket closed"
    assert "--tls" in refused(message, ConnectionAccess())
    assert "--cert" in refused(message, ConnectionAccess(tls=True))
    assert refused("Stream removed (Socket closed)", ConnectionAccess()) == ""


def test_without_a_name_the_last_servers_are_opened_else_the_one_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert servers_of(parser().parse_args([])) == ["127.0.0.1:8433"] == [ServerConfig().listen]
    assert servers_of(parser().parse_args(["--offline"])) == []
    last = recent_servers.RecentServers(
        ("10.0.0.1:8433",), ConnectionAccess(True, Path("/etc/ca.pem"))
    )
    recent_servers.remember(last, recent_servers.path())
    arguments = parser().parse_args([])
    assert servers_of(arguments) == ["10.0.0.1:8433"]
    assert arguments.tls and arguments.ca == Path("/etc/ca.pem")
    assert servers_of(parser().parse_args(["h:1", "unix:/run/s"])) == ["h:1", "unix:/run/s"]


def test_servers_of_the_last_time_come_back(tmp_path: Path) -> None:
    place = tmp_path / "config" / "last.json"
    assert recent_servers.recall(place) == recent_servers.RecentServers()
    files = ("/etc/ca.pem", "/run/token", "/etc/me.pem", "/etc/me.key")
    access = ConnectionAccess(True, *map(Path, files))
    kept = recent_servers.RecentServers(("10.0.0.1:8433", "10.0.0.2:8433"), access)
    recent_servers.remember(kept, place)
    assert recent_servers.recall(place) == kept
    place.write_text('{"servers": "no list", "tls": "yes", "ca": 7}')
    assert recent_servers.recall(place) == recent_servers.RecentServers()
    place.write_text("{")
    assert recent_servers.recall(place) == recent_servers.RecentServers()
    recent_servers.remember(
        kept, tmp_path / "config" / "last.json" / "no folder" / "last.json"
    )  # a word
