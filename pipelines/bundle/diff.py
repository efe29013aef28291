"""The differences between two bundles, or between a bundle and this process, as lines of text. They
name the parameter, module, library or tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipelines.bundle import stamp as stamps
from pipelines.bundle.bundle import weight_files
from pipelines.bundle.contents import Contents
from pipelines.bundle.manifest import Manifest

_MOST: Final = 12  # lines for each file; further differences are only counted


def differences(a: Contents, b: Contents) -> list[str]:
    """One line for each difference, as `A -> B`; empty for equal stamps."""
    lines = _named("name", {"": a.manifest.name}, {"": b.manifest.name})
    lines += process_differences(a.manifest, b.manifest.code, b.manifest.libraries)
    weights = _weight_differences(a, b)
    lines += _most("weights", weights)
    for path in sorted(_paths(a) | _paths(b)):
        lines += _file_differences(path, a, b, bool(weights))
    return lines


def process_differences(
    manifest: Manifest, code: Mapping[str, str], libraries: Mapping[str, str]
) -> list[str]:
    """The differences of code by module, and of libraries by version."""
    lines = _named("library", manifest.libraries, libraries)
    for module in sorted(manifest.code.keys() | code.keys()):
        if module not in code:
            lines.append(f"code: {module} is in the first only")
        elif module not in manifest.code:
            lines.append(f"code: {module} is in the second only")
        elif manifest.code[module] != code[module]:
            lines.append(f"code: {module} differs")
    return lines


def running_differences(manifest: Manifest) -> list[str]:
    """The differences between a bundle and this process."""
    code, libraries = stamps.running_code(), stamps.running_libraries()
    foreign = [f"code: {module}" for module in code.foreign_modules]
    return process_differences(manifest, code.modules, libraries) + foreign


def _named(what: str, a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [
        f"{what} {name}: {a.get(name, 'none')} -> {b.get(name, 'none')}".replace(" :", ":")
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def _paths(contents: Contents) -> set[str]:
    return {leaf.path for leaf in contents.manifest.files}


def _digest(contents: Contents, path: str) -> str | None:
    return next((leaf.sha256 for leaf in contents.manifest.files if leaf.path == path), None)


def _file_differences(path: str, a: Contents, b: Contents, weights_reported: bool) -> list[str]:
    before, after = _digest(a, path), _digest(b, path)
    if before == after:
        return []
    if before is None or after is None:
        return [f"{path}: in the {'second' if before is None else 'first'} only"]
    if path.startswith("weights/"):
        return [] if weights_reported else [f"{path}: same tensors in another layout"]
    if path.endswith(".json"):
        return _most(path, list(_json_differences("", a.json(path), b.json(path))))
    return [f"{path}: content differs ({a.files[path].size} -> {b.files[path].size} bytes)"]


def _json_differences(where: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            inside = f"{where}.{key}" if where else str(key)
            if key in a and key in b:
                yield from _json_differences(inside, a[key], b[key])
            else:
                yield f"{inside} is in the {'first' if key in a else 'second'} only"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _json_differences(f"{where}[{number}]", left, right)
    elif a != b or type(a) is not type(b):
        yield f"{where} {_short(a)} -> {_short(b)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _most(what: str, details: list[str]) -> list[str]:
    lines = [f"{what}: {detail}" for detail in details[:_MOST]]
    if len(details) > _MOST:
        lines.append(f"{what}: and {len(details) - _MOST} more differences")
    if not details:
        return []
    return lines


def _weight_differences(a: Contents, b: Contents) -> list[str]:
    from pipelines.bundle.tensors import read_tensors

    if all(_digest(a, f.path) == _digest(b, f.path) for f in weight_files({**a.files, **b.files})):
        return []
    left = {k: v for file in weight_files(a.files) for k, v in read_tensors(file).items()}
    right = {k: v for file in weight_files(b.files) for k, v in read_tensors(file).items()}
    details = []
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            details.append(f"{name} is in the {'first' if name in left else 'second'} only")
        elif (left[name].shape, left[name].dtype) != (right[name].shape, right[name].dtype):
            details.append(f"{name} is {_form(left[name])} -> {_form(right[name])}")
        elif not left[name].equal(right[name]):
            gap = (left[name].double() - right[name].double()).abs().max().item()
            details.append(f"{name} differs by up to {gap:.3g}")
    return details


def _form(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
