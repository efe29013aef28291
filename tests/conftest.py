"""What every test needs before anything else is imported."""

import os

import pipelines  # noqa: F401  first of all: makes `import torchaudio` safe for transformers

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
