"""Which files go into the console's folder and which stay out. The spec file, the notices and the
tests read it. Names of Qt libraries are without `libQt6` and `.so.6`."""

from __future__ import annotations

from pathlib import PurePosixPath

PROGRAM = "trefoil-console"
WINDOW_CLASS = PROGRAM  # as console/app/main.py names the desktop entry

# Bindings that the console imports. shiboken6 and libpyside6 come with them.
BINDINGS = ("QtCore", "QtGui", "QtWidgets")

# Libraries that the bindings and the plug-ins below are linked to; all others stay out.
QT_LIBRARIES = ("Core", "DBus", "Gui", "OpenGL", "Svg", "WaylandClient", "Widgets", "XcbQpa")

# By folder: X11 and Wayland, the formats a payload may have, input methods, the desktop's dark or
# light mode; `offscreen` writes `--screenshot` without a display.
QT_PLUGINS = {
    "platforms": ("qoffscreen", "qwayland", "qxcb"),
    "platforminputcontexts": (
        "composeplatforminputcontextplugin",
        "ibusplatforminputcontextplugin",
    ),
    "platformthemes": ("qxdgdesktopportal",),
    "imageformats": ("qgif", "qjpeg", "qtiff", "qwebp"),
    "wayland-decoration-client": ("adwaita", "bradient"),
    "wayland-graphics-integration-client": ("qt-plugin-wayland-egl",),
    "wayland-shell-integration": ("xdg-shell",),
    "xcbglintegrations": ("qxcb-egl-integration", "qxcb-glx-integration"),
}

# scipy.special and its dependencies; the rest of SciPy is 40 MB of unused linear algebra.
SCIPY_PARTS = ("_lib", "special")

# Python modules that an analysis of imports would add without need.
UNUSED = (
    "torch", "torchaudio", "transformers", "tokenizers", "safetensors", "soundfile", "pipelines",
    "tkinter", "matplotlib", "PIL", "pandas", "IPython", "pytest", "mypy", "hypothesis", "sklearn",
    "pyarrow", "sympy", "numba", "pyqtgraph", "setuptools", "pkg_resources", "pip",
    "numpy.distutils",
    "lib2to3", "ensurepip", "distutils", "readline", "curses", "sqlite3.test",
    "scipy.cluster", "scipy.constants", "scipy.datasets", "scipy.differentiate", "scipy.fft",
    "scipy.fftpack", "scipy.integrate", "scipy.interpolate", "scipy.io", "scipy.linalg",
    "scipy.misc", "scipy.ndimage", "scipy.odr", "scipy.optimize", "scipy.signal", "scipy.sparse",
    "scipy.spatial", "scipy.stats", "scipy.special.cython_special", "scipy.special.tests",
    "PySide6.QtDBus", "PySide6.QtDesigner", "PySide6.QtHelp", "PySide6.QtNetwork",
    "PySide6.QtOpenGL", "PySide6.QtOpenGLWidgets", "PySide6.QtPdf", "PySide6.QtQml",
    "PySide6.QtQuick", "PySide6.QtQuickWidgets", "PySide6.QtSql", "PySide6.QtSvg",
    "PySide6.QtTest", "PySide6.QtUiTools", "PySide6.QtWebEngineCore", "PySide6.QtXml",
)  # fmt: skip

# Imported late or by name, so an analysis does not find them.
HIDDEN = (
    "proto.observe_pb2", "proto.observe_pb2_grpc", "proto.inference_pb2",
    "console.app.media", "console.feed.hub", "console.feed.link",
    "server.telemetry.drift.scores", "server.telemetry.drift.profile", "server.telemetry.record",
    "sqlite_utils", "scipy.special",
)  # fmt: skip

# Files that must not be in a finished folder, whatever the lists above contain.
FORBIDDEN = (
    "torch", "transformers", "pipelines", "Qml", "Quick", "Pdf", "WebEngine",
    "WaylandCompositor", "EglFS", "VirtualKeyboard",
)  # fmt: skip


def belongs(name: str, system: bool) -> bool:
    """Whether a file of an analysis goes into the folder. `name` is its path there. `system`: it
    was found among the system's libraries, on which the package depends instead, as they get their
    security updates from the distribution."""
    place = PurePosixPath(name.replace("\\", "/"))
    parts, base = place.parts, place.name
    if system and not base.startswith("libpython") and "lib-dynload" not in parts:
        return False
    if parts[0] == "PySide6":
        return _qt_belongs(place)
    if parts[0].endswith(".dist-info"):  # the other files of it contain paths of the build machine
        return base == "METADATA"
    if parts[0] == "scipy" and len(parts) > 2:
        return parts[1] in SCIPY_PARTS
    return True


def _qt_belongs(place: PurePosixPath) -> bool:
    """On Linux a closed list; elsewhere only files known to be useless are left out."""
    base, parts = place.name, place.parts
    if any(word in str(place) for word in FORBIDDEN) or {"qml", "translations"} & set(parts):
        return False
    if ".so" not in base:
        return True
    if "plugins" in parts:
        return base.removeprefix("lib").removesuffix(".so") in QT_PLUGINS.get(parts[-2], ())
    if base.startswith("libQt6"):
        return base.removeprefix("libQt6").split(".")[0] in QT_LIBRARIES
    if base.endswith(".abi3.so"):
        return base.removesuffix(".abi3.so") in BINDINGS
    return True
