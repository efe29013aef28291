"""The owner of each file in the console's folder: one entry for each component, with its files and
its Python modules. A file that no entry claims stops the build (notices.py)."""

from __future__ import annotations

from dataclasses import dataclass

QT_SOURCE = "https://download.qt.io/official_releases/qt/"
LGPL = "LGPL-3.0-only"
# The parts of the server that the console uses; no other part of it is packed.
SERVER = tuple(
    f"server.telemetry.{name}"
    for name in ("drift", "errors", "filters", "outputs", "record", "rows")
)


@dataclass(frozen=True, slots=True)
class Component:
    name: str
    licence: str  # SPDX identifier
    holder: str
    source: str
    files: tuple[str, ...] = ()  # patterns below the folder's `_internal`; * also matches slashes
    modules: tuple[str, ...] = ()  # inside the program's archive, each with all its submodules
    distribution: str = ""  # the distribution that gives the version and the licence files
    texts: tuple[str, ...] = ()  # files of licences/ beside this file
    debian: str = ""  # the same licence in /usr/share/common-licenses
    note: str = ""


@dataclass(frozen=True, slots=True)
class QtModule:
    library: str  # libQt6<library>
    title: str
    plugins: tuple[str, ...] = ()


QT_MODULES = (
    QtModule("Core", "Qt Core"),
    QtModule("DBus", "Qt D-Bus"),
    QtModule(
        "Gui",
        "Qt GUI",
        ("qoffscreen", "qgif", "qjpeg", "composeplatforminputcontextplugin",
         "ibusplatforminputcontextplugin", "qxdgdesktopportal"),
    ),
    QtModule("OpenGL", "Qt OpenGL"),
    QtModule("Svg", "Qt SVG"),
    QtModule(
        "WaylandClient",
        "Qt Wayland Client",
        ("qwayland", "adwaita", "bradient", "qt-plugin-wayland-egl", "xdg-shell"),
    ),
    QtModule("Widgets", "Qt Widgets"),
    QtModule(
        "XcbQpa",
        "Qt GUI's X11 support",
        ("qxcb", "qxcb-egl-integration", "qxcb-glx-integration"),
    ),
    QtModule("", "Qt Image Formats (plug-ins only)", ("qtiff", "qwebp")),
)  # fmt: skip

COMPONENTS = (
    Component(
        "Trefoil",
        "Apache-2.0",
        "The Trefoil authors",
        "the repository this package was built from",
        modules=("console", "proto", "trefoil_serve", *SERVER),
        distribution="trefoil-serve",
        files=("NOTICES.txt", "licences/*", "trefoil_serve-*.dist-info/*"),
        debian="Apache-2.0",
    ),
    Component(
        "Qt",
        LGPL,
        "The Qt Company Ltd. and other contributors",
        QT_SOURCE,
        files=("PySide6/Qt/lib/libQt6*", "PySide6/Qt/plugins/*"),
        distribution="PySide6-Essentials",
        texts=("LGPL-3.0.txt", "GPL-3.0.txt"),
        debian="LGPL-3",
        note="Qt contains work of others: FreeType (portions of this software are copyright The"
        " FreeType Project, www.freetype.org; all rights reserved), the Independent JPEG Group and"
        " libjpeg-turbo, libpng, libtiff, libwebp, zlib, HarfBuzz, PCRE2, double-conversion, MD4C"
        " and more; the full list with its texts is"
        " https://doc.qt.io/qt-6/licenses-used-in-qt.html",
    ),
    Component(
        "PySide6 and Shiboken6",
        LGPL,
        "The Qt Company Ltd.",
        "https://download.qt.io/official_releases/QtForPython/",
        files=("PySide6/Qt*.abi3.so", "PySide6/libpyside6*", "shiboken6/*"),
        modules=("PySide6", "shiboken6"),
        distribution="PySide6-Essentials",
        texts=("LGPL-3.0.txt", "GPL-3.0.txt"),
        debian="LGPL-3",
    ),
    Component(
        "ICU",
        "Unicode-DFS-2016",
        "1991-2023 Unicode, Inc.",
        "https://icu.unicode.org/",
        files=("PySide6/Qt/lib/libicu*",),
        texts=("Unicode-DFS-2016.txt",),
    ),
    Component(
        "Python",
        "PSF-2.0",
        "Python Software Foundation; Stichting Mathematisch Centrum; BeOpen.com; CNRI",
        "https://www.python.org/downloads/source/",
        files=("base_library.zip", "libpython3*", "python3*/lib-dynload/*"),
        modules=("_sysconfigdata__x86_64-linux-gnu", "_sysconfigdata__aarch64-linux-gnu"),
        distribution="typing_extensions",  # its licence file is a complete copy of Python's
    ),
    Component(
        "typing_extensions",
        "PSF-2.0",
        "Python Software Foundation",
        "https://github.com/python/typing_extensions",
        modules=("typing_extensions",),
        distribution="typing_extensions",
    ),
    Component(
        "PyInstaller's loader",
        "GPL-2.0-or-later with PyInstaller's exception",
        "PyInstaller Development Team; 2002 McMillan Enterprises, Inc.",
        "https://github.com/pyinstaller/pyinstaller",
        modules=("_pyi_rth_utils",),
        distribution="pyinstaller",
        debian="GPL-2",
        note="The exception permits programs packed with it under any licence.",
    ),
    Component(
        "NumPy",
        "BSD-3-Clause",
        "2005-2025 NumPy Developers",
        "https://github.com/numpy/numpy",
        files=("numpy/*", "numpy-*.dist-info/*"),
        modules=("numpy",),
        distribution="numpy",
    ),
    Component(
        "SciPy",
        "BSD-3-Clause",
        "2001-2002 Enthought, Inc.; 2003 SciPy Developers",
        "https://github.com/scipy/scipy",
        files=("scipy/*",),
        modules=("scipy",),
        distribution="scipy",
    ),
    Component(
        "OpenBLAS and LAPACK",
        "BSD-3-Clause",
        "2011-2014 The OpenBLAS Project; 1992-2013 The University of Tennessee and others",
        "https://github.com/OpenMathLib/OpenBLAS",
        files=("numpy.libs/libscipy_openblas*", "scipy.libs/libscipy_openblas*"),
        distribution="numpy",  # numpy's licence file contains their texts
    ),
    Component(
        "GCC run-time library",
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        "Free Software Foundation, Inc.",
        "https://gcc.gnu.org/",
        files=("numpy.libs/libgfortran*", "scipy.libs/libgfortran*"),
        distribution="numpy",
        texts=("GPL-3.0.txt",),
        debian="GPL-3",
    ),
    Component(
        "libquadmath",
        "LGPL-2.1-or-later",
        "2010-2019 Free Software Foundation, Inc.",
        "https://gcc.gnu.org/",
        files=("numpy.libs/libquadmath*", "scipy.libs/libquadmath*"),
        texts=("LGPL-2.1.txt",),
        debian="LGPL-2.1",
    ),
    Component(
        "gRPC",
        "Apache-2.0",
        "The gRPC Authors",
        "https://github.com/grpc/grpc",
        files=("grpc/*",),
        modules=("grpc",),
        distribution="grpcio",
        debian="Apache-2.0",
        note="With BoringSSL, Abseil, c-ares, RE2 and zlib inside, and Mozilla's list of root"
        " certificates (MPL-2.0).",
    ),
    Component(
        "Protocol Buffers",
        "BSD-3-Clause",
        "2008 Google Inc.",
        "https://github.com/protocolbuffers/protobuf",
        files=("google/*",),
        modules=("google",),
        distribution="protobuf",
    ),
    Component(
        "sqlite-utils",
        "Apache-2.0",
        "Simon Willison",
        "https://github.com/simonw/sqlite-utils",
        modules=("sqlite_utils", "sqlite_fts4"),
        distribution="sqlite-utils",
        debian="Apache-2.0",
    ),
    Component(
        "Click",
        "BSD-3-Clause",
        "2014 Pallets",
        "https://github.com/pallets/click",
        files=("click-*.dist-info/*",),
        modules=("click",),
        distribution="click",
    ),
    Component(
        "pluggy",
        "MIT",
        "2015 holger krekel and others",
        "https://github.com/pytest-dev/pluggy",
        files=("pluggy-*.dist-info/*",),
        modules=("pluggy",),
        distribution="pluggy",
    ),
    Component(
        "python-dateutil",
        "Apache-2.0 and BSD-3-Clause (older parts)",
        "2017 Paul Ganssle and dateutil contributors; Gustavo Niemeyer; Tomi Pievilainen;"
        " Yaron de Leeuw",
        "https://github.com/dateutil/dateutil",
        modules=("dateutil",),
        distribution="python-dateutil",
    ),
    Component(
        "platformdirs",
        "MIT",
        "2010 The platformdirs developers",
        "https://github.com/tox-dev/platformdirs",
        modules=("platformdirs",),
        distribution="platformdirs",
    ),
)
