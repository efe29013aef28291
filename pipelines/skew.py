"""What has moved under a bundle that is being served: files, sources, functions, libraries.

The answers stay what they were (everything was read once); the next start would not be the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines import stamp as stamps
from pipelines.bundle import Bundle
from pipelines.diff import running_differences


def skew(bundle: Bundle, installed: Mapping[str, str] | None = None) -> list[str]:
    """One line a difference, empty while nothing moved. Reads every source file: a few hundredths
    of a second, so once a minute is often enough. `installed` are the library versions on disk.
    """
    lines = [f"file: {path} was changed on disk" for path in bundle.changed_files()]
    lines += running_differences(bundle.manifest)
    loaded = stamps.running_libraries()
    on_disk = stamps.installed_libraries() if installed is None else installed
    for name, version in on_disk.items():
        if loaded[name] != version:
            lines.append(f"library {name}: {loaded[name]} is loaded, {version} is installed")
    return lines
