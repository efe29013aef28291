"""The stamp: one hash over everything that can change a number, and its parts for comparison.

Pure functions over names, sizes and digests. Only the readings of code and libraries at the end
look at the running process. This module does not know how a bundle is opened.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Final

from pipelines.bundle.loaded_code import differing
from pipelines.errors import BundleRefused

PACKAGE: Final = "pipelines"

# The part a file belongs to: the first match decides; a path without a match is refused.
_PART_OF: Final = (
    ("weights/", "weights"),
    ("model/", "weights"),
    ("preprocess.json", "preprocessing"),
    ("tokenizer/", "preprocessing"),
    ("template.json", "template"),
    ("labels.json", "labels"),
    ("objective.json", "objective"),
    ("reference/", "reference"),
    ("golden/", "golden"),
    ("speed.json", "speed"),
    ("training.json", "data"),
    ("CARD.md", "card"),
)
PARTS: Final = (
    "weights",
    "preprocessing",
    "code",
    "libraries",
    "labels",
    "template",
    "objective",
    "reference",
    "golden",
    "speed",
    "data",
    "card",
    "name",
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One file: `path` with forward slashes, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Code:
    """`modules` maps a path such as `pipelines/media/decode.py` to the sha256 of its source with LF
    line ends. `foreign_modules` names each module of this process whose code is not in that hash,
    with the reason."""

    modules: Mapping[str, str]
    foreign_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stamp:
    """`hex` (64 digits) is the only form to compare; `name` is for people. `parts` maps each of
    PARTS to a digest; `detail` maps `part/item` to a file's digest or a library's version."""

    hex: str
    name: str
    dirty: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, str] = field(default_factory=dict)


def part_of(path: str) -> str | None:
    """The part a bundle file belongs to; None when the layout has no part for it."""
    for prefix, part in _PART_OF:
        if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
            return part
    return None


def _digest(domain: str, *fields: bytes) -> str:
    """sha256 over a domain tag and length-prefixed fields, so that two different inputs never hash
    the same bytes."""
    h = hashlib.sha256(f"trefoil.{domain}\0".encode())
    for item in fields:
        h.update(len(item).to_bytes(8, "little"))
        h.update(item)
    return h.hexdigest()


def leaf_digest(leaf: Leaf) -> bytes:
    size = leaf.size.to_bytes(8, "little")
    return bytes.fromhex(
        _digest("file.v1", leaf.path.encode(), size, bytes.fromhex(leaf.sha256)),
    )


def tree_digest(leaves: Iterable[Leaf]) -> str:
    """Depends on every name and content, not on the order of the files."""
    ordered = sorted(leaves, key=lambda leaf: leaf.path.encode())
    return _digest("tree.v1", *(leaf_digest(leaf) for leaf in ordered))


def code_tree(modules: Mapping[str, str]) -> str:
    pairs = (_digest("module.v1", p.encode(), bytes.fromhex(modules[p])) for p in sorted(modules))
    return _digest("code.v1", *(bytes.fromhex(pair) for pair in pairs))


def libraries_digest(versions: Mapping[str, str]) -> str:
    pairs = (_digest("library.v1", k.encode(), versions[k].encode()) for k in sorted(versions))
    return _digest("libraries.v1", *(bytes.fromhex(pair) for pair in pairs))


def bundle_digest(canonical: bytes) -> str:
    """The stamp: a digest of the canonical manifest without its human-readable fields."""
    return _digest("bundle.v1", canonical)


def seal_digest(canonical: bytes) -> str:
    """A digest of the whole manifest, so that a changed date or note is detected too."""
    return _digest("seal.v1", canonical)


def dirty_digest(stamp: str, code: str, libraries: str) -> str:
    """A digest with its own domain, so that a dirty stamp never equals a pinned one."""
    return _digest("dirty.v1", *(bytes.fromhex(part) for part in (stamp, code, libraries)))


def display_name(name: str, stamp: str, dirty: bool = False) -> str:
    return f"{name}+dirty.{stamp[:12]}" if dirty else f"{name}+{stamp[:12]}"


def part_digests(
    name: str, leaves: Sequence[Leaf], code: Mapping[str, str], libraries: Mapping[str, str]
) -> dict[str, str]:
    """One digest for each of PARTS; an absent part has the digest of no files."""
    parts = {part: tree_digest(f for f in leaves if part_of(f.path) == part) for part in PARTS}
    parts["code"] = code_tree(code)
    parts["libraries"] = libraries_digest(libraries)
    parts["name"] = _digest("name.v1", name.encode())
    return parts


def detail_map(
    name: str, leaves: Sequence[Leaf], code: Mapping[str, str], libraries: Mapping[str, str]
) -> dict[str, str]:
    """`part/item` -> digest or version, without repeating the part's own folder."""
    detail = {"name": name}
    for leaf in leaves:
        part = part_of(leaf.path) or ""
        detail[f"{part}/{leaf.path.removeprefix(part + '/')}"] = leaf.sha256
    detail |= {f"code/{path.removeprefix(PACKAGE + '/')}": sha for path, sha in code.items()}
    detail |= {f"libraries/{lib}": version for lib, version in libraries.items()}
    return detail


def source_digest(source: bytes) -> str:
    """The digest of a source; a checkout with CRLF line ends gives the same digest."""
    return hashlib.sha256(source.replace(b"\r\n", b"\n")).hexdigest()


def code_of(folder: Path) -> dict[str, str]:
    """The digests of every module under `folder`, the package directory."""
    return {path: source_digest(source) for path, source in sources(folder).items()}


def sources(folder: Path) -> dict[str, bytes]:
    return {path: file.read_bytes() for path, file in source_files(folder).items()}


def source_files(folder: Path) -> dict[str, Path]:
    return {
        f"{PACKAGE}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*.py"))
    }


def package_folder() -> Path:
    """Where the package was imported from. Raises BundleRefused("code")."""
    package = sys.modules[PACKAGE]
    if package.__file__ is None:
        raise BundleRefused("code", "pipelines was imported without source files; install it whole")
    return Path(package.__file__).resolve().parent


def running_code() -> Code:
    """The code of this process: the source files of the imported package.

    A loaded module that does not come from one of those files (a sourceless .pyc, a second copy on
    the path, an extension), or that was changed on disk or in memory since its import, is a
    foreign module: the hash does not cover what it computes.
    """
    folder = package_folder()
    texts = sources(folder)
    found = (_why_foreign(module, folder, texts) for _, module in sorted(loaded_modules().items()))
    digests = {path: source_digest(source) for path, source in texts.items()}
    return Code(digests, tuple(reason for reason in found if reason))


def loaded_modules() -> dict[str, ModuleType]:
    """Every module of the package that this process has imported."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    }


def source_of(module: ModuleType, folder: Path, texts: Mapping[str, bytes]) -> bytes | None:
    """The source in `texts` of a loaded module; None when it was loaded from anywhere else."""
    path = _file_of(module, folder)
    inside = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else ""
    return texts.get(f"{PACKAGE}/{inside}")


def _file_of(module: ModuleType, folder: Path) -> Path:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else folder.parent


def _why_foreign(module: ModuleType, folder: Path, texts: Mapping[str, bytes]) -> str:
    """Why a loaded module differs from its source file; "" when it does not."""
    name, path = module.__name__, _file_of(module, folder)
    source = source_of(module, folder, texts)
    if source is None:
        file = getattr(module, "__file__", None)
        return f"{name} was loaded from {file}, not from the sources of {PACKAGE}"
    changed = differing(module, source)
    if changed:
        return f"{name}.{changed} is not the one now in {path.name}: restart the process"
    return ""


# Distribution -> the module whose `__version__` counts once it is imported. Only libraries that
# compute are tracked. safetensors is not: pipelines/bundle/tensors.py reads that format itself.
# Python is not: its arithmetic does not change. Its Unicode tables behind NFC do, hence `unicode`.
_LIBRARIES: Final = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "scipy": "scipy",
    "pillow": "PIL",
    "soundfile": "soundfile",
}


def public_version(version: str) -> str:
    """The version without its local part: 2.13.0+cpu and 2.13.0+cu130 have the same source, and the
    build is part of env."""
    return version.split("+", 1)[0]


def running_libraries() -> dict[str, str]:
    """Public versions, in this process, of the libraries that compute."""
    found = {dist: _version(dist, module) for dist, module in _LIBRARIES.items()}
    return found | _codecs() | {"unicode": unicodedata.unidata_version}


def installed_libraries() -> dict[str, str]:
    """Public versions on disk; an upgrade changes them while a process runs."""
    return {distribution: _installed(distribution) for distribution in _LIBRARIES}


def _version(distribution: str, module: str) -> str:
    version = getattr(sys.modules.get(module), "__version__", None)
    return _installed(distribution) if version is None else public_version(str(version))


def _installed(distribution: str) -> str:
    try:
        return public_version(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return "absent"


def _codecs() -> dict[str, str]:
    """Decoders that are packed inside wheels and can differ between builds of one version."""
    features = importlib.import_module("PIL.features")
    soundfile = importlib.import_module("soundfile")
    jpeg = f"turbo {features.version('libjpeg_turbo')}" if features.check("libjpeg_turbo") else None
    return {
        "libjpeg": str(jpeg or features.version("jpg")),
        "libwebp": str(features.version("webp")),
        "libsndfile": str(soundfile.__libsndfile_version__),
    }
