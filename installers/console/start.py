"""What the frozen program runs."""

import sys

from console.main import main

sys.exit(main())
