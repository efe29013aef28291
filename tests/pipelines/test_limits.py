"""The front may not import pipelines, so its limits are written twice; this compares both sides."""

from __future__ import annotations

import json

from pipelines.media.limits import DEFAULT, QWEN, InputLimits
from pipelines.pipeline import EMBEDDED
from server.config import ServerConfig


def test_the_front_refuses_at_the_limits_of_the_bundle() -> None:
    front = ServerConfig()
    embedded = InputLimits.from_dict(
        json.loads((EMBEDDED / "preprocess.json").read_text())["limits"]
    )
    for limits in (DEFAULT, QWEN, embedded):
        assert front.max_parts == limits.max_parts
        assert front.max_text_bytes == limits.max_text_bytes
