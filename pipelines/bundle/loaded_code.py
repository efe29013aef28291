"""Compares the functions in memory with a source text. After an edit of the source or a patch of a
function, the process computes something that the hash of the file does not cover.

The source is compiled again, and the byte code of every function and method must equal the one
found under its name. Wrappers that a decorator returns are unwrapped.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from types import CodeType, ModuleType
from typing import Any, Final

_MISSING: Final = object()
# Where wrappers keep the wrapped function: functools.wraps and lru_cache, class and static methods,
# properties, partials.
_INSIDE: Final = ("__wrapped__", "__func__", "fget", "func")


def differing(module: ModuleType, source: bytes) -> str:
    """The first function of `source` that differs in `module`; "" when all are the same."""
    return _differs_in(vars(module), _compiled(source, str(module.__file__)))


@lru_cache(maxsize=256)
def _compiled(source: bytes, path: str) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


def _differs_in(names: Any, body: CodeType) -> str:
    """`names` is a module's or a class's namespace, `body` the code that filled it."""
    wanted: dict[str, list[CodeType]] = {}
    for code in body.co_consts:
        # Lambdas, comprehensions and type parameters have no name to look them up by.
        if isinstance(code, CodeType) and not code.co_name.startswith("<"):
            wanted.setdefault(code.co_name, []).append(code)
    for name, codes in wanted.items():
        found = names.get(name, _MISSING)
        if found is _MISSING:
            continue  # deleted, or defined under a condition that did not hold
        bodies = [code for code in codes if _is_class_body(code)]
        if bodies and inspect.isclass(found):
            for body_of_class in bodies:
                inside = _differs_in(vars(found), body_of_class)
                if inside:
                    return f"{name}.{inside}"
        elif not _is_one_of(found, codes):
            return name
    return ""


def _is_class_body(code: CodeType) -> bool:
    return "__module__" in code.co_names and "__qualname__" in code.co_names


def _is_one_of(found: Any, codes: list[CodeType]) -> bool:
    for _ in range(10):  # nested wrappers; more than ten do not occur
        code = getattr(found, "__code__", None)
        if isinstance(code, CodeType) and code in codes:
            return True
        held = (getattr(found, name, None) for name in _INSIDE)
        found = next((inner for inner in held if inner is not None), None)
        if found is None:
            break
    return False
