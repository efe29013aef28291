"""Starts a module of this project as a separate process, which imports this project's packages and
never a file of the current directory (`python -m` and `python -c` would look there first).

The process is started with the path of this file, so that no search is needed. The packages beside
this file come first, unless they are installed; then Python finds them anyway.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def module_command(module: str) -> tuple[str, ...]:
    """The command that runs a module; the module's arguments come after it."""
    return (sys.executable, "-P", str(Path(__file__).resolve()), module)


def main() -> None:
    module = sys.argv[1]
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
