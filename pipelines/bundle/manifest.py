"""manifest.json: the contents of a bundle in one canonical form.

`stamp` covers everything except `created_at`, `human`, `stamp` and `seal`; `seal` covers everything
except itself, so that a change to any byte of the file is detected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipelines.bundle import stamp as stamps
from pipelines.bundle.files import MAX_FILES, Buffer, check_name
from pipelines.bundle.formats import parse_json
from pipelines.bundle.stamp import Leaf, Stamp
from pipelines.errors import BundleRefused, ManifestMismatch

FILE: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
OPENSSF: Final = "model.sig"
SCHEMA: Final = "trefoil.bundle/1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
MAX_FILE_BYTES: Final = 1 << 44  # 16 TiB
_MAX_CHARS: Final = 64 << 10  # human-readable notes are the longest texts
_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`code` and `libraries` are those with which the golden answers were computed."""

    name: str
    files: tuple[Leaf, ...]
    code: Mapping[str, str]
    libraries: Mapping[str, str]
    created_at: str = ""  # RFC 3339, for people
    human: Mapping[str, str] = field(default_factory=dict)  # notes, for people

    @property
    def stamp_hex(self) -> str:
        return stamps.bundle_digest(_canonical(self._stamped()))

    def stamp(self) -> Stamp:
        found = self.stamp_hex
        return Stamp(
            hex=found,
            name=stamps.display_name(self.name, found),
            parts=stamps.part_digests(self.name, self.files, self.code, self.libraries),
            detail=stamps.detail_map(self.name, self.files, self.code, self.libraries),
        )

    def to_bytes(self) -> bytes:
        """The canonical form on disk: sorted keys, one line for each value."""
        whole = self._stamped() | {
            "created_at": self.created_at,
            "human": dict(self.human),
            "stamp": self.stamp_hex,
        }
        whole["seal"] = stamps.seal_digest(_canonical(whole))
        text = json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False)
        return text.encode() + b"\n"

    def _stamped(self) -> dict[str, object]:
        ordered = sorted(self.files, key=lambda leaf: leaf.path.encode())
        return {
            "schema": SCHEMA,
            "name": self.name,
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in ordered],
            "tree": stamps.tree_digest(ordered),
            "code": {"modules": dict(self.code), "tree": stamps.code_tree(self.code)},
            "libraries": dict(self.libraries),
        }


def _canonical(value: Mapping[str, object]) -> bytes:
    """UTF-8 with sorted keys and without spaces. The schema has no floats, whose text form could
    vary."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def read(content: Buffer | bytes) -> Manifest:
    """Parses a manifest and checks that it is consistent; the files are not read.

    Raises BundleRefused: `manifest` (schema, shape), `names`; ManifestMismatch(`manifest`) when its
    seal does not match its content, or its bytes are not those of `Manifest.to_bytes`.
    """
    whole = parse_json(FILE, content)
    if whole.get("schema") != SCHEMA:
        raise BundleRefused(
            "manifest", f"schema is {whole.get('schema')!r}; this version reads {SCHEMA}"
        )
    try:
        manifest = _parse(whole)
    except KeyError as error:
        raise BundleRefused("manifest", f"malformed: {error} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise BundleRefused("manifest", f"malformed: {type(error).__name__} {error}") from error
    _check_names(manifest.files)
    if manifest.to_bytes() != bytes(content):
        raise ManifestMismatch(
            "manifest",
            "manifest.json was changed after it was written (its stamp or seal does "
            "not match its content); copy the bundle again or run `pipelines restamp`",
        )
    return manifest


def _parse(whole: dict[str, object]) -> Manifest:
    files, code = whole["files"], whole["code"]
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise TypeError(f"files is not a list of at most {MAX_FILES} files")
    if not isinstance(code, dict):
        raise TypeError("code is not an object")
    return Manifest(
        name=check_bundle_name(_text("name", whole["name"])),
        files=tuple(_leaf(f"files[{number}]", file) for number, file in enumerate(files)),
        code={
            key: _hex(f"code.modules.{key}", value)
            for key, value in _texts("code.modules", code["modules"]).items()
        },
        libraries=_texts("libraries", whole["libraries"]),
        created_at=_text("created_at", whole["created_at"]),
        human=_texts("human", whole["human"]),
    )


def _leaf(where: str, file: object) -> Leaf:
    if not isinstance(file, dict):
        raise TypeError(f"{where} is not an object")
    return Leaf(
        _text(f"{where}.path", file["path"]),
        _count(f"{where}.size", file["size"]),
        _hex(f"{where}.sha256", file["sha256"]),
    )


def _check_names(files: Sequence[Leaf]) -> None:
    for leaf in files:
        check_name(leaf.path)
        if stamps.part_of(leaf.path) is None:
            raise BundleRefused("names", f"{leaf.path} is not part of the bundle layout")
    if len({leaf.path.casefold() for leaf in files}) != len(files):
        raise BundleRefused(
            "names", "the manifest lists a file twice (or two names that differ only in case)"
        )


def check_bundle_name(name: str) -> str:
    """Raises ValueError unless the name is valid before the `+` of a stamp's name."""
    if not _NAME.match(name):
        raise ValueError(
            f"{name!r} is not a bundle name: letters, digits and . _ - only, at most 64"
        )
    return name


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        raise TypeError(f"{where} is not a text of at most {_MAX_CHARS} characters")
    return value


def _texts(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_FILES:
        raise TypeError(f"{where} is not an object of at most {MAX_FILES} texts")
    return {
        _text(f"a name in {where}", key): _text(f"{where}.{key}"[:200], item)
        for key, item in value.items()
    }


def _hex(where: str, value: object) -> str:
    if not isinstance(value, str) or not _HEX.match(value):
        raise ValueError(f"{where[:200]} is not a sha256")
    return value


def _count(where: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_FILE_BYTES:
        raise TypeError(f"{where} is {value!r}; a size is 0 to {MAX_FILE_BYTES} bytes")
    return value
