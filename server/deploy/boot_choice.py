"""Chooses the bundle that a server starts with: the one named by --bundle, or else the one its
store served last.

This module knows the store but not pools: the caller starts pools, and tries the next choice when a
bundle is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.config import CHOOSE, EMBEDDED_BUNDLE
from server.deploy.bundle_store import SHORT, BundleStore, Stored, StoreRefused, identify
from server.deploy.restamped import copy_of, unlinked


@dataclass(frozen=True, slots=True)
class BootChoice:
    """A bundle to serve, and why this one."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FailedBoot:
    """A choice that could not be served, and the refusal."""

    choice: BootChoice
    refusal: str


def choices(
    asked: Path,
    store: BundleStore | None,
    data: Path | None = None,
    expected: Stored | None = None,
) -> tuple[BootChoice, ...]:
    """What to try, in this order: the named bundle, the fleet's, the one this server served last.

    Never falls back from the store to the embedded bundle: another model with other labels must not
    replace it silently.
    """
    if asked != CHOOSE:
        return (BootChoice(asked, _named(asked, store)),)
    found = _linked(store) if store is not None else ()
    if expected is not None:
        fleets = BootChoice(expected.path, "the one that --expect-stamp names")
        found = (fleets, *(one for one in found if one.path.resolve() != expected.path.resolve()))
    return found or _embedded(data)


def after(choice: BootChoice, tried: Sequence[FailedBoot]) -> BootChoice:
    """The same choice, with the earlier refusals added to the reason."""
    if not tried:
        return choice
    before = "; ".join(f"{one.choice.path.name} refused: {one.refusal}" for one in tried)
    return BootChoice(choice.path, f"{choice.reason}; {before}")


def _embedded(data: Path | None) -> tuple[BootChoice, ...]:
    """The embedded bundle. A copy that an earlier start restamped comes first; the original is
    right again when its own libraries are installed."""
    original = BootChoice(EMBEDDED_BUNDLE, "the embedded one: nothing was named or activated")
    with suppress(OSError):  # if it fails, the bundle is refused later with its reason
        if data is not None and (plain := unlinked(EMBEDDED_BUNDLE, data)) != EMBEDDED_BUNDLE:
            why = "a copy of the embedded one, which was installed as links"
            original = BootChoice(plain, f"{why}: nothing was named or activated")
    copy = None if data is None else copy_of(EMBEDDED_BUNDLE, data)
    if copy is None:
        return (original,)
    return (BootChoice(copy, "the embedded one, restamped at an earlier start"), original)


def _named(asked: Path, store: BundleStore | None) -> str:
    current = None
    if store is not None:
        try:
            current = store.current
        except StoreRefused:
            pass  # the named bundle is served, whatever the state of the store
    if current is None or current.path.resolve() == asked.resolve():
        return "named by --bundle"
    return f"named by --bundle, before {current.stamp[:SHORT]}, the store's current"


def _linked(store: BundleStore) -> tuple[BootChoice, ...]:
    found: list[BootChoice] = []
    stamps: list[str] = []
    for link in ("current", "previous"):
        path = store.link_path(link)
        if path is None:
            continue
        try:
            _, stamp = identify(path)
        except StoreRefused as error:
            # It stays in the list, so that a replica refuses it: a damaged or missing current
            # bundle is reported, not skipped.
            found.append(BootChoice(store.root / link, f"the store's {link} ({error})"))
            continue
        if stamp not in stamps:
            stamps.append(stamp)
            found.append(BootChoice(path, f"the store's {link}"))
    return tuple(found)
