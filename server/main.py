"""The `server` command: without a subcommand it serves; with one it calls a server."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from server import host
from server.commands.flags import add_flags
from server.commands.output.command_line import CommandLine, near
from server.commands.settings import (
    PRECEDENCE,
    SettingInvalid,
    add_settings,
    as_toml,
    settings_of,
)
from server.errors import ServerError
from server.host import version

# Imported only when used: serving needs no progress bar, and a client command no pool.
COMMANDS = {
    "predict": "send one request, or a small load of it",
    "status": "show the state of a server",
    "probe": "exit 0 when a server is ready, else 1 with the reason",
    "feedback": "send the true outcome of a prediction",
    "replay": "answer a stored payload again and show what differs",
    "slices": "find the slices of traffic where the model does worst",
    "export": "write stored predictions as JSON lines or Parquet",
    "load": "load and check a bundle beside the active one",
    "rehearse": "replay stored payloads through a bundle and judge it",
    "activate": "switch to a loaded bundle",
    "rollback": "switch back to the previous bundle",
    "fleet": "load and activate a bundle on many servers: on all or on none",
    "bundles": "list the stored bundles and the role of each",
    "tune": "find the pool, threads and batch size for this machine",
    "restart": "end the process of one replica and start it again",
    "drain": "let a server finish accepted work, then exit",
    "token": "make a bearer token for a person or a program",
    "init-tls": "make a private CA and certificates for a first installation",
}
OK = 0
INTERRUPTED = 130
USAGE = 2


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  server {name:8} {what}" for name, what in COMMANDS.items())
    parser = CommandLine(
        prog="server",
        usage="server [FLAGS]            serve until stopped\n"
        "       server COMMAND [FLAGS]    call a server, or prepare one",
        description="Serve a bundle: text, image and audio in, one answer out, from a warm pool.",
        epilog=f"{PRECEDENCE}\n\ncommands, each with its own --help:\n{listed}\n\n"
        "exit codes: 0 stopped normally, 2 wrong usage or address, 78 bundle or pool refused",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    add_settings(parser)
    add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        command = importlib.import_module(f"server.commands.{arguments[0].replace('-', '_')}")
        try:
            if hasattr(command, "run"):
                return int(command.run(arguments[1:]))
            # Imported late, as it loads the client.
            from server.commands.connection import run_to_end

            given = command.parser().parse_args(arguments[1:])
            return run_to_end(command.call(given), given.server)
        except KeyboardInterrupt:
            return INTERRUPTED
    if arguments and not arguments[0].startswith("-"):
        names = ", ".join(COMMANDS)
        hint = near(arguments[0], COMMANDS) or f"; there are {names}"
        print(f"server: there is no command {arguments[0]!r}{hint}", file=sys.stderr)
        return USAGE
    command_line = parser()
    try:
        settings = settings_of(command_line, arguments, os.environ)
    except SettingInvalid as error:
        command_line.error(str(error))
    if settings.print_only:
        print(as_toml(settings))
        return OK
    # gRPC writes a line to standard error for each caller that uses compression or fails its
    # handshake: anyone could fill the disk of the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    host.keep_freed_memory()
    from server.commands import serve

    try:
        return serve.run(settings.config)
    except ServerError as error:
        print(f"server: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    import trefoil_serve

    sys.exit(trefoil_serve.server())
