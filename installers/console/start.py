"""What the frozen program runs."""

from __future__ import annotations

import os
import sys


def own_libraries_only() -> None:
    """The loader's search path was for this process; a player or a browser that it starts must not
    inherit it."""
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
