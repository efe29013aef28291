"""The values behind a digest of the stamp: the settings of preprocessing, so that a person who
compares two servers reads `image.max_pixels 6272` instead of two digests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "preprocess.json"
PART = "preprocessing"
MOST = 200  # entries; every snapshot has them
LONGEST = 80  # characters of a value


def values_of(bundle: Path) -> dict[str, str]:
    """`preprocessing/section.field` -> its value as JSON. Empty when the file cannot be read: the
    bundle has been verified already, and these values are for display only."""
    try:
        found = json.loads((bundle / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    leaves = list(_leaves("", found))[:MOST]
    return {f"{PART}/{name}": text[:LONGEST] for name, text in leaves}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        yield name, json.dumps(value, ensure_ascii=False).strip('"')
        return
    for key in sorted(value):
        yield from _leaves(f"{name}.{key}" if name else key, value[key])
