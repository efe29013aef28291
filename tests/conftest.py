"""What every test needs before anything else is imported."""

import os
from pathlib import Path

import pytest

import pipelines  # noqa: F401  first of all: makes `import torchaudio` safe for transformers

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle with random weights, built once a session. Copy it before changing it."""
    from tests.tinybundle import make_bundle  # late: a run without it needs no torch

    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
