"""Progress bars for commands run in a terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class ProgressBars:
    """Progress bars on a terminal's stderr; silent anywhere else."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def bytes_done(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, unit="B", unit_scale=True)

    def fraction_done(self, step: str, fraction: float) -> None:
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
        self._show(step, round(fraction * 1000), 1000, bar_format=form)

    def _show(self, what: str, done: int, total: int, **form: Any) -> None:
        if what != self._what:
            self.__exit__()
            self._what = what
            self._bar = tqdm(total=total, desc=what, disable=None, leave=False, **form)
        self._bar.update(done - self._bar.n)
