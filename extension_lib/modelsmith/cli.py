"""The command line: ``modelsmith COMMAND …``. Exit status 0 done, 1 bad input, 2 usage, 130 stopped."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from modelsmith import __version__
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith.speech_cli import Parser, main_language, told_error, warn, write


class Command(Protocol):
    """A module that holds one or more commands."""

    def add_parser(self, subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
        """Add the command's parser; it sets ``run`` to a function from the parsed arguments to an exit status."""
        ...


# Modules that build their parsers without torch or numpy; those are imported when a command runs.
COMMANDS = (
    "modelsmith.identify.cli",
    "modelsmith.merge.cli",
    "modelsmith.lora.cli",
    "modelsmith.vae.cli",
    "modelsmith.convert.cli",
)


def build_parser() -> argparse.ArgumentParser:
    """The whole parser, every command in it, in the language that is spoken."""
    parser = Parser(prog="modelsmith", description="Knows, merges and mends model files.")
    version = f"modelsmith {__version__}"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        cast(Command, importlib.import_module(name)).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    main_language(argv)
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its message; a caller wants the status
        return stop.code if isinstance(stop.code, int) else 2
    try:
        return int(arguments.run(arguments))
    except UsageError as error:
        write(f"modelsmith: {told_error(error)}", sys.stderr)
        return 2
    except ModelsmithError as error:
        write(f"modelsmith: {told_error(error)}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        warn("modelsmith: stopped; nothing half-written was kept")
        return 130
    except BrokenPipeError:
        return 1
