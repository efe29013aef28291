"""The notices of the console's folder: its files, their authors and licences, with the texts. A
file or a module without an entry in components.py is an error, not a guess."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from installers.console.components import COMPONENTS, QT_MODULES, Component

HERE = Path(__file__).parent
INSTALLED = "usr/lib/trefoil-console"

HEAD = """\
Trefoil console
===============

Trefoil itself is under the Apache License 2.0. This folder holds, beside it, the components below,
each under its own licence; the texts lie in licences/ beside this file.

How to replace Qt
-----------------

Qt, PySide6 and Shiboken6 are used under the GNU Lesser General Public License, version 3, as shared
libraries: nothing of them is linked into the program. To run the console with your own build of Qt
{qt}, or with a changed one, put its libQt6*.so.6 files in the place of those in

    _internal/PySide6/Qt/lib

(on Debian /{installed}/_internal/PySide6/Qt/lib) and its plug-ins in
_internal/PySide6/Qt/plugins; for PySide6 and Shiboken6 replace _internal/PySide6/*.so* and
_internal/shiboken6/*.so*. Nothing checks their digests, and their interfaces must be those of Qt
{series}. You may also reverse engineer the program to debug such changes. Or leave this package and
run the console from its source with any PySide6 of your own: pip install '.[console]', then
`console`. The source of Qt {qt}, of PySide6 and of Shiboken6 is at the addresses below.

Qt's modules in this folder
---------------------------
"""


def component_of(name: str) -> Component | None:
    """The component that owns a file below `_internal`."""
    for component in COMPONENTS:
        if any(fnmatchcase(name, pattern) for pattern in component.files):
            return component
    return None


def unnamed(files: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Files and Python modules that no entry claims."""
    known = {name for component in COMPONENTS for name in component.modules}
    packages = {above for name in known for above in _with_parents(name)}
    known |= set(sys.stdlib_module_names)
    found = [name for name in files if component_of(name) is None]
    found += [
        f"module {name}"
        for name in modules
        if name not in packages and known.isdisjoint(_with_parents(name))
    ]
    return sorted(found)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def version_of(component: Component) -> str:
    return metadata.version(component.distribution) if component.distribution else ""


def qt_lines() -> Iterator[str]:
    for module in QT_MODULES:
        files = [f"libQt6{module.library}.so.6"] if module.library else []
        files += [f"{plugin}.so" for plugin in module.plugins]
        line = f"{module.title}: {', '.join(files)}"
        yield from textwrap.wrap(line, 96, initial_indent="  ", subsequent_indent="    ")


def text(versions: bool = True) -> str:
    """The content of NOTICES.txt."""
    qt = metadata.version("PySide6-Essentials") if versions else "6"
    series = ".".join(qt.split(".")[:2])
    lines = [HEAD.format(qt=qt, series=series, installed=INSTALLED), *qt_lines(), ""]
    lines += ["Components", "----------", ""]
    for component in COMPONENTS:
        version = version_of(component) if versions and component.name != "Python" else ""
        lines += [f"{component.name} {version}".strip(), f"  licence    {component.licence}"]
        lines += [f"  copyright  {component.holder}", f"  source     {component.source}"]
        for name, _ in licence_files(component) if versions else ():
            lines.append(f"  text       {name}")
        if component.note:
            wrapped = textwrap.wrap(component.note, 90)
            lines += [f"  {line}" for line in wrapped]
        lines.append("")
    return "\n".join(lines)


def licence_files(component: Component) -> list[tuple[str, Path]]:
    """(path below `_internal`, current path of the text). Raises FileNotFoundError if there is
    none."""
    found = [(f"licences/{name}", HERE / "licences" / name) for name in component.texts]
    if component.distribution and not component.texts:
        wheel = metadata.distribution(component.distribution)
        for entry in sorted(wheel.files or (), key=str):
            parts = entry.parts
            title = parts[-1].upper()
            if parts[0].endswith(".dist-info") and ("LICENSE" in title or "COPYING" in title):
                below = "/".join(part for part in parts[1:] if part != "licenses")
                name = f"licences/{component.distribution}/{below}"
                found.append((name, Path(str(entry.locate()))))
    missing = [str(path) for _, path in found if not path.is_file()]
    if not found or missing:
        raise FileNotFoundError(f"no licence text for {component.name}: {missing}")
    return found


def write(folder: Path) -> list[tuple[str, str]]:
    """The notices and texts in the form of the spec file: (file, folder below `_internal`)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NOTICES.txt").write_text(text())
    found = {"NOTICES.txt": folder / "NOTICES.txt"}
    for component in COMPONENTS:
        found.update(licence_files(component))
    return [(str(path), str(Path(name).parent)) for name, path in sorted(found.items())]


def debian_copyright() -> str:
    """The package's copyright file, machine-readable (DEP 5)."""
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: Trefoil",
        "Comment: what is not Trefoil's own came as the wheels that the Python Package Index has.",
        f" NOTICES.txt in /{INSTALLED}/_internal explains how to replace Qt.",
        "",
        "Files: *",
        *_paragraph(COMPONENTS[0]),
    ]
    for component in COMPONENTS[1:]:
        if component.files:
            places = [f"{INSTALLED}/_internal/{pattern}" for pattern in component.files]
            lines += ["", f"Files: {places[0]}", *(f" {place}" for place in places[1:])]
            lines += _paragraph(component)
    inside = [component for component in COMPONENTS[1:] if component.modules]
    lines += ["", f"Files: {INSTALLED}/trefoil-console", "Copyright:"]
    lines += [f" {component.name}: {component.holder}" for component in inside]
    lines += ["License: several", " An archive of Python modules behind PyInstaller's loader:"]
    lines += [f" {component.name}: {component.licence}" for component in inside]
    lines.append(f" The texts are in /{INSTALLED}/_internal/licences.")
    return "\n".join(lines) + "\n"


def _paragraph(component: Component) -> list[str]:
    where = [f" The text is in /{INSTALLED}/_internal/{name}" for name, _ in
             licence_files(component)[:1]]  # fmt: skip
    if component.debian:
        where.append(f" and on Debian systems in /usr/share/common-licenses/{component.debian}")
    short = component.licence.replace(" ", "-").replace("'", "")
    return [f"Copyright: {component.holder}", f"License: {short}", *where]
