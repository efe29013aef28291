"""Keeps a server of a fleet out of traffic until it serves the fleet's stamp.

A server that was down while the fleet switched would start with the bundle it served last, and its
answers would differ from the others'. With --expect-stamp it loads the fleet's bundle from its
store, and with --expect-from also from where the fleet keeps it; otherwise it stays out of traffic
and names what is missing. Once it has served the stamp it is released: later activations are the
operator's decision.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from server.deploy.bundle_store import SHORT, BundleStore, Stored, StoreRefused
from server.deploy.deployment import Deployment
from server.errors import DeployRefused

logger = logging.getLogger(__name__)

STAMP = re.compile(r"[0-9a-f]{12,64}")
LOOK_S = 2.0
AGAIN_S = 60.0  # wait after a refused bundle


@dataclass(slots=True)
class ExpectedStamp:
    """`asked` is a stamp, at least its first 12 digits, or a file with one; "" expects nothing. A
    file is read at each check, since the fleet may switch while this server starts. `source` is the
    URL, with {stamp} in it, of bundles that the store lacks; "" fetches none."""

    asked: str
    source: str = ""
    released: bool = field(default=False, init=False)
    _refusal: str = field(default="", init=False)  # the refusal of the last attempt

    def read(self) -> tuple[str, str]:
        """(the stamp, "" if it cannot be read; where it comes from or why it cannot be read)."""
        if STAMP.fullmatch(self.asked):
            return self.asked, "--expect-stamp"
        try:
            text = Path(self.asked).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            return "", f"--expect-stamp {self.asked} cannot be read: {error}"
        if not STAMP.fullmatch(text):
            return "", f"--expect-stamp {self.asked} does not hold a stamp"
        return text, f"--expect-stamp {self.asked}"

    def withheld(self, serving: str) -> str:
        """Why a server with this stamp must not be ready; "" if it may be."""
        if not self.asked or self.released:
            return ""
        stamp, reason = self.read()
        if stamp and serving.startswith(stamp):
            self.released = True
            return ""
        if not stamp:
            return reason
        sentence = (
            f"the fleet serves {stamp[:SHORT]} ({reason}), this server "
            f"{serving[:SHORT] or 'nothing yet'}"
        )
        if self._refusal:
            return f"{sentence}: {self._refusal}"
        if self.source:
            return f"{sentence}: it comes from {self._url(stamp)}"
        return f"{sentence}: load that bundle here with `server load BUNDLE --activate`"

    def _url(self, stamp: str) -> str:
        return self.source.replace("{stamp}", stamp)

    def stored(self, store: BundleStore | None) -> Stored | None:
        """The expected bundle, if the store has it."""
        stamp, _ = self.read() if self.asked else ("", "")
        try:
            return store.find(stamp) if store is not None and stamp else None
        except StoreRefused:
            return None

    async def obey(
        self, deployment: Deployment, look_s: float = LOOK_S, again_s: float = AGAIN_S
    ) -> None:
        """Load and activate the expected bundle as soon as the store has it, or fetch it from
        `source`."""
        while not self.released and self.asked:
            await asyncio.sleep(look_s)
            stamp, _ = self.read()
            found = self.stored(deployment.store)
            if self.released or not stamp or (found is None and not self.source):
                continue
            wanted = found.path if found is not None else f"{self._url(stamp)}#{stamp}"
            try:
                await deployment.load(wanted, "", True, lambda _step: None)
                self._refusal = ""
                continue
            except DeployRefused as refusal:
                self._refusal = str(refusal)
            # The edge of the loop: a library of an object store may fail too.
            except Exception as fault:
                logger.exception("the bundle that the fleet serves")
                self._refusal = f"{type(fault).__name__}: {fault}"
            if not self.released:
                logger.warning("%s, which the fleet serves: %s", stamp[:SHORT], self._refusal)
                await asyncio.sleep(again_s)
