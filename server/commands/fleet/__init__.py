"""`server fleet`: operates several servers as one."""

from server.commands.fleet.command import parser, run

__all__ = ["parser", "run"]
