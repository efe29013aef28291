"""The entry point of the frozen program."""

from __future__ import annotations

import os
import sys


def own_libraries_only() -> None:
    """Removes the loader's search path of this process from the environment: a player or a browser
    that it starts must not inherit it."""
    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if before is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = before


if __name__ == "__main__":
    own_libraries_only()
    import trefoil_serve

    trefoil_serve.forgiving_streams()
    from console.app.main import main

    sys.exit(main())
