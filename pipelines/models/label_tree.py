"""Labels as a tree of tokens after a prompt, so that K labels are scored in one forward.

- labels with a common prefix share its columns: P(token | prefix) does not depend on the label;
- the last token of a label is only a target, so it needs no column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Tokens = tuple[int, ...]

MAX_COLUMNS = 256
"""With more label columns, the prompt is cached first: the packed mask grows as the square."""


@dataclass(frozen=True, slots=True)
class Tree:
    """`columns` inputs and `edges` targets; an edge's source -1 is the last prompt token.

    tokens, depth [columns]; ancestors bool [columns, columns] (each column sees itself);
    source, target [edges]; paths [labels, longest]: edge numbers, padded with `edges`.
    """

    tokens: Ints
    depth: Ints
    ancestors: NDArray[np.bool_]
    source: Ints
    target: Ints
    paths: Ints

    @property
    def columns(self) -> int:
        return len(self.tokens)

    @property
    def edges(self) -> int:
        return len(self.target)


@lru_cache(maxsize=256)
def tree(labels: tuple[Tokens, ...]) -> Tree:
    """Raises ValueError for an empty label, or one that is a prefix of another."""
    column_of: dict[Tokens, int] = {}
    edge_of: dict[Tokens, int] = {}
    for label in labels:
        for length in range(1, len(label) + 1):
            edge_of.setdefault(label[:length], len(edge_of))
            if length < len(label):
                column_of.setdefault(label[:length], len(column_of))
    _check(labels, column_of)
    longest = max(map(len, labels), default=0)
    paths = np.full((len(labels), longest), len(edge_of), dtype=np.int64)
    for row, label in enumerate(labels):
        paths[row, : len(label)] = [edge_of[label[: n + 1]] for n in range(len(label))]
    return Tree(
        tokens=np.array([prefix[-1] for prefix in column_of], dtype=np.int64),
        depth=np.array([len(prefix) for prefix in column_of], dtype=np.int64),
        ancestors=_ancestors(column_of),
        source=np.array([column_of.get(p[:-1], -1) for p in edge_of], dtype=np.int64),
        target=np.array([prefix[-1] for prefix in edge_of], dtype=np.int64),
        paths=paths,
    )


def _check(labels: Sequence[Tokens], column_of: dict[Tokens, int]) -> None:
    if any(not label for label in labels):
        raise ValueError("a label without tokens cannot be scored")
    if len(set(labels)) != len(labels):
        raise ValueError("two labels have the same tokens")
    if any(label in column_of for label in labels):
        raise ValueError("one label is a prefix of another: end them with an end token")


def _ancestors(column_of: dict[Tokens, int]) -> NDArray[np.bool_]:
    seen = np.zeros((len(column_of), len(column_of)), dtype=np.bool_)
    for prefix, column in column_of.items():
        if len(prefix) > 1:
            seen[column] = seen[column_of[prefix[:-1]]]
        seen[column, column] = True
    return seen


@lru_cache(maxsize=256)
def groups(labels: tuple[Tokens, ...], max_columns: int = MAX_COLUMNS) -> tuple[Tree, ...]:
    """The labels, in order, in trees of at most `max_columns` columns, filled greedily.

    A single longer label gets its own tree.
    """
    found: list[Tree] = []
    first, columns = 0, set[Tokens]()
    for number, label in enumerate(labels):
        prefixes = {label[:length] for length in range(1, len(label))}
        if number > first and len(columns | prefixes) > max_columns:
            found.append(tree(labels[first:number]))
            first, columns = number, set()
        columns |= prefixes
    found.append(tree(labels[first:]))
    return tuple(found)
