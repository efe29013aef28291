"""The image, built without a daemon: on a Debian of its own, with the wheels of this machine's
package index, in two builds that share no cache."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.installers.debian import archive
from tests.installers.tools import GPU_HOST, Failed, Skipped, need, need_root, run

PYTHON = (3, 11)  # of Debian 12, and so of the image
BASE = "localhost/trefoil-base"


@dataclass(frozen=True, slots=True)
class Image:
    """`id` is the digest of the configuration, which names every layer by its unpacked content;
    `digest` that of the manifest."""

    id: str
    digest: str
    size: str
    took_s: float


class Workshop:
    """A directory for everything that is made on the way; nothing is written outside of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._epoch = _last_commit()

    # ---- what the builds share ------------------------------------------------------------------

    def wheels(self) -> Path:
        """The exact libraries, fetched by this machine's pip however it is configured: the build
        itself then needs no index, and nothing of that configuration gets into the image."""
        if sys.version_info[:2] != PYTHON:
            raise Skipped("the image has Python 3.11; wheels for it are fetched by Python 3.11")
        folder = self.folder / "wheels"
        if not (folder / "whole").exists():
            command = (sys.executable, "-m", "pip", "download", "-q", "--dest", str(folder))
            run([*command, "-r", GPU_HOST / "requirements.txt", "hatchling"])
            (folder / "whole").touch()
        return folder

    def debian(self, *more: str) -> Path:
        """A minimal Debian 12 as an archive, with `more` packages."""
        need_root()
        need("mmdebstrap")
        name = "-".join(("debian", *more))
        return archive(self.folder / f"{name}.tar", *more, epoch=self._epoch)

    def base(self) -> str:
        if not self._images(BASE):
            context = self.folder / "base"
            context.mkdir(exist_ok=True)
            shutil.copy(self.debian(), context / "debian.tar")
            (context / "Containerfile").write_text("FROM scratch\nADD debian.tar /\n")
            self.buildah("bud", "-q", "--timestamp", self._epoch, "-t", BASE, context)
            shutil.rmtree(context)
        return BASE

    # ---- builds ---------------------------------------------------------------------------------

    def build(self, name: str) -> Image:
        base, wheels = self.base(), self.wheels()
        began = time.monotonic()
        self.buildah(
            # Docker's own format keeps the name of the container it was built in: never the same.
            *("bud", "--isolation", "chroot", "--format", "oci", "--no-cache"),
            *("--timestamp", self._epoch, "--build-arg", f"SOURCE_DATE_EPOCH={self._epoch}"),
            *("--build-arg", f"BASE={base}", "--build-arg", "OFFLINE=1"),
            *("--build-context", f"wheels={wheels}"),
            *("--ignorefile", GPU_HOST / "Containerfile.dockerignore"),
            *("-f", GPU_HOST / "Containerfile", "-t", f"localhost/{name}", "."),
        )
        took_s = time.monotonic() - began
        (found,) = self._images(f"localhost/{name}")
        return Image(found["id"], found["digest"], found["size"], took_s)

    def settings(self, name: str) -> dict[str, Any]:
        """How the image is run, by its own configuration."""
        command = ("inspect", "--type", "image", f"localhost/{name}")
        found: dict[str, Any] = json.loads(self.buildah(*command))["OCIv1"]["config"]
        return found

    def unpack(self, name: str) -> Path:
        """An OCI runtime bundle: `config.json` and `rootfs/`."""
        need("umoci")
        layout, bundle = self.folder / "oci", self.folder / "runtime"
        self.buildah("push", "-q", f"localhost/{name}", f"oci:{layout}:{name}")
        run(["umoci", "unpack", "--image", f"{layout}:{name}", bundle])
        shutil.rmtree(layout)
        return bundle

    def remove(self, *names: str) -> None:
        self.buildah("rmi", "-f", *(f"localhost/{name}" for name in names))

    def buildah(self, *arguments: str | Path) -> str:
        need_root()
        need("buildah")
        where = ("--root", self.folder / "images", "--runroot", self.folder / "images-run")
        return run(["buildah", *where, *arguments])

    def _images(self, name: str) -> Sequence[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.buildah("images", "--json") or "[]") or []
        return [one for one in found if f"{name}:latest" in (one.get("names") or ())]


def same_twice(workshop: Workshop) -> str:
    """Leaves the image as localhost/trefoil."""
    first, second = workshop.build("trefoil"), workshop.build("trefoil-again")
    workshop.remove("trefoil-again")
    if (first.id, first.digest) != (second.id, second.digest):
        raise Failed(f"two builds differ: {first} and {second}")
    return (
        f"both builds are {first.digest} (configuration {first.id[:12]}), {first.size}; "
        f"they took {first.took_s:.0f} s and {second.took_s:.0f} s"
    )


def _last_commit() -> str:
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    return run(["git", "log", "-1", "--format=%ct"]).strip()
