"""Decides whether an error is a lack of memory. Imports nothing, because decoder processes use it
too."""

from __future__ import annotations


def short_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed, in Python, NumPy or torch (which has no class of its own for
    the CPU), or whether such a failure is the cause of a decoder's error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        from_torch = type(error).__name__ == "OutOfMemoryError" or (
            type(error) is RuntimeError and "not enough memory" in str(error)
        )
        if isinstance(error, MemoryError) or from_torch:
            return True
        error = error.__cause__ or error.__context__
    return False
