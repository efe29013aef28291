"""Reads a local checkpoint directory for a bundle.

It reads single or sharded safetensors of Qwen2.5-Omni or Gemma 4. A Qwen2.5-Omni checkpoint may
hold the thinker only, or all parts: then its names begin with `thinker.`, and talker and vocoder
are left out. Weights are streamed: a shard without changes is copied byte for byte, any other is
rewritten tensor by tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from pipelines.build.build import Shard
from pipelines.bundle.formats import parse_json
from pipelines.bundle.tensors import TensorEntry, header_bytes, read_entries
from pipelines.errors import BundleRefused
from pipelines.models.families import Family, family_of

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_CHUNK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`config` is the model's config (for an Omni checkpoint, the thinker's); `processor` holds the
    media parameters that the checkpoint states."""

    family: Family
    config: Mapping[str, Any]
    tokenizer: bytes
    shards: tuple[Shard, ...]
    processor: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Naming:
    """Whether a tensor is used, and its name in a bundle."""

    belongs: Callable[[str], bool]
    canonical: Callable[[str], str]


def read(folder: Path) -> Checkpoint:
    """Raises BundleRefused: `missing` for files a checkpoint must have, `config` for another model
    family, `weights` for inconsistent shards."""
    whole = _json(folder, "config.json")
    config = whole.get("thinker_config", whole)
    family = family_of(config)
    processor: dict[str, Any] = {}
    for name in family.stated.files:
        if (folder / name).exists():
            processor |= _flat(_json(folder, name))
    naming = Naming(family.belongs(config), family.canonical)
    return Checkpoint(family, config, _tokenizer(folder), _shards(folder, naming), processor)


def _flat(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a processor file, which may nest the parameters of its parts."""
    flat = {**stated}
    for part in ("image_processor", "feature_extractor"):
        flat |= stated.get(part) or {}
    return flat


def _json(folder: Path, name: str) -> dict[str, Any]:
    return parse_json(name, _content(folder, name))


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleRefused("missing", f"{folder / name}: {error.strerror}") from error


def _tokenizer(folder: Path) -> bytes:
    """tokenizer.json, completed with the special tokens from the files beside it."""
    content = _content(folder, "tokenizer.json")
    tokenizer = Tokenizer.from_str(content.decode())
    missing = {t: n for t, n in _stated_tokens(folder).items() if tokenizer.token_to_id(t) is None}
    if not missing:
        return content
    ordered = sorted(missing, key=lambda token: missing[token])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ordered])
    for token, number in missing.items():
        if tokenizer.token_to_id(token) != number:
            raise BundleRefused(
                "config", f"tokenizer.json has no {token}, and its stated id {number} is taken"
            )
    return str(tokenizer.to_str()).encode()


def _stated_tokens(folder: Path) -> dict[str, int]:
    tokens: dict[str, int] = {}
    if (folder / "added_tokens.json").exists():
        tokens |= {str(token): int(n) for token, n in _json(folder, "added_tokens.json").items()}
    if (folder / "tokenizer_config.json").exists():
        listed = _json(folder, "tokenizer_config.json").get("added_tokens_decoder", {})
        tokens |= {str(item["content"]): int(number) for number, item in listed.items()}
    return tokens


def _shards(folder: Path, naming: Naming) -> tuple[Shard, ...]:
    names = _shard_names(folder)
    plans = [_plan(folder, name) for name in names]
    seen: dict[str, str] = {}
    for name, entries in plans:
        for entry in entries:
            other = seen.setdefault(naming.canonical(entry.name), name)
            if other != name:
                raise BundleRefused("weights", f"{entry.name} is in {other} and in {name}")
    kept = [
        (name, [e for e in entries if naming.belongs(e.name)], entries) for name, entries in plans
    ]
    kept = [plan for plan in kept if plan[1]]
    if not kept:
        raise BundleRefused("weights", f"{folder} has no tensors of the model")
    return tuple(
        _shard(
            folder / name,
            _new_name(number, len(kept)),
            [(naming.canonical(entry.name), entry) for entry in chosen],
            len(chosen) == len(entries),
        )
        for number, (name, chosen, entries) in enumerate(kept)
    )


def _shard_names(folder: Path) -> Sequence[str]:
    if not (folder / _INDEX).exists():
        if not (folder / _SINGLE).exists():
            raise BundleRefused(
                "missing",
                f"{folder} has neither {_SINGLE} nor {_INDEX}; weights in any other "
                "format (.bin, .pt) must be converted to safetensors first",
            )
        return [_SINGLE]
    places = _json(folder, _INDEX).get("weight_map", {})
    names = sorted(set(places.values()))
    for name in names:
        if "/" in name or not (folder / name).exists():
            raise BundleRefused("missing", f"{_INDEX} lists {name}, which is missing")
    return names


def _new_name(number: int, count: int) -> str:
    return _SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _plan(folder: Path, name: str) -> tuple[str, list[TensorEntry]]:
    return name, read_entries(name, _map(folder / name))


def _shard(path: Path, name: str, chosen: list[tuple[str, TensorEntry]], whole: bool) -> Shard:
    """Makes a shard of the `chosen` tensors, which are (new name, tensor)."""
    entries = [entry for _, entry in chosen]
    tensors = tuple(new for new, _ in chosen)
    if whole and tensors == tuple(entry.name for entry in entries):
        size = path.stat().st_size
        return Shard(name, tensors, size, lambda: _pieces(path, 0, size))
    head = header_bytes((new, entry.dtype, entry.shape) for new, entry in chosen)
    size = len(head) + sum(entry.end - entry.begin for entry in entries)
    return Shard(name, tensors, size, _rewriter(path, head, entries))


def _rewriter(path: Path, head: bytes, entries: list[TensorEntry]) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        yield head
        for entry in entries:
            yield from _pieces(path, entry.begin, entry.end)

    return chunks


def _pieces(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yields the bytes in pieces. It reads instead of mapping, so that only one piece of many
    gigabytes is in memory."""
    with path.open("rb") as file:
        file.seek(begin)
        while piece := file.read(min(_CHUNK_BYTES, end - file.tell())):
            yield piece
