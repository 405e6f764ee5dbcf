"""How the command line speaks: in the user's language, English or Japanese, on any terminal.

Everything that it says is written in English where it is said and looked up in ``modelsmith.command_words``, the help
of all commands included; what the library says (errors, notes, findings) has its Japanese in ``modelsmith.japanese``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from modelsmith.errors import ModelsmithError
from modelsmith.japanese import filled_in, in_japanese

if TYPE_CHECKING:
    from tqdm import tqdm

    from modelsmith.identify.messages import Language

    _Base = argparse._SubParsersAction["Parser"]  # pyright: ignore[reportPrivateUsage]
else:
    _Base = argparse._SubParsersAction

_JAPANESE = 0x11  # the primary language in Windows' language identifiers (winnt.h, LANG_JAPANESE)

_current: Language = "en"


def language() -> Language:
    """The language that is spoken now."""
    return _current


def speak(chosen: Language) -> None:
    """Speak this language from now on."""
    global _current
    _current = chosen


def asked_for(arguments: Sequence[str]) -> str | None:
    """What ``--lang`` says, before the arguments are parsed: their help is to be in that language already."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--lang" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--lang="):
            return argument.partition("=")[2]
    return None


def language_of(environment: Mapping[str, str], asked: str | None = None) -> Language:
    """The language asked for, or else that of the system: the first of LANGUAGE, LC_ALL, LC_MESSAGES and LANG that
    is set decides, as for Python's ``gettext``; on Windows, where none is, that of its user interface."""
    if asked in ("en", "ja"):
        return "ja" if asked == "ja" else "en"
    names = (environment.get(name, "") for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"))
    said = next((name for name in names if name), "")
    if not said and sys.platform == "win32":
        import ctypes

        return "ja" if ctypes.windll.kernel32.GetUserDefaultUILanguage() & 0x3FF == _JAPANESE else "en"
    return "ja" if said.split(":")[0].lower().startswith("ja") else "en"


def words(english: str, *values: object) -> str:
    """A sentence of the command line in the user's language, filled with values."""
    if _current == "ja":
        from modelsmith.command_words import JAPANESE

        english = JAPANESE.get(english, english)
    return english.format(*values)


def told(sentence: str) -> str:
    """What the library says, in the user's language."""
    return in_japanese(sentence) if _current == "ja" else sentence


def told_error(error: ModelsmithError) -> str:
    """An error with its remedy, in the user's language."""
    if _current != "ja":
        return str(error)
    message, remedy = error.in_language("ja")
    return f"{message}。{remedy}" if remedy else message


def say(english: str, *values: object) -> None:
    """Tell a result."""
    write(words(english, *values))


def warn(english: str, *values: object) -> None:
    """Tell what is beside the result, on the other stream."""
    write(words(english, *values), sys.stderr)


def write(text: str, stream: TextIO | None = None) -> None:
    """Write a line at once, so that a reader at the end of a pipe sees each as it comes; names that the terminal cannot
    show must not stop the work."""
    target = stream or sys.stdout
    encoding = target.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=target, flush=True)


def bar(quiet: bool, title: str = "", total: int = 0, *, leave: bool = False) -> tqdm[Any]:
    """A progress bar in bytes, on a terminal that somebody watches. leave: whether it stays when it is full."""
    from tqdm import tqdm

    disable = True if quiet else None
    return tqdm(desc=title[:40] or None, total=total, unit="B", unit_scale=True, disable=disable, leave=leave)


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors are in the user's language, and which takes ``--lang``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("description"):
            options["description"] = words(options["description"])
        if _current == "ja":
            options.setdefault("formatter_class", _narrow)
        super().__init__(*args, **options)
        self.register("action", "parsers", _Commands)
        self.add_argument("--lang", choices=("en", "ja"), default=argparse.SUPPRESS, help="language of what is said")

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As ``argparse`` does, with the help in the user's language."""
        text = options.get("help")
        if text and text != argparse.SUPPRESS:
            options["help"] = words(text)
        return super().add_argument(*names, **options)

    def format_help(self) -> str:
        """The help, argparse's own words included."""
        return _translated(super().format_help())

    def format_usage(self) -> str:
        """The first lines of the help."""
        return _translated(super().format_usage())

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and end with status 2."""
        if _current == "ja":
            from modelsmith.command_words import ARGUMENTS

            message = filled_in(message, ARGUMENTS)
        write(f"{self.format_usage()}{self.prog}: {message}", sys.stderr)
        self.exit(2)


class _Commands(_Base):
    """The commands of a parser, with their help in the user's language."""

    def add_parser(self, name: str, **options: Any) -> Parser:
        if options.get("help"):
            options["help"] = words(options["help"])
        return super().add_parser(name, **options)


def _translated(text: str) -> str:
    """argparse's headings in the user's language."""
    if _current != "ja":
        return text
    from modelsmith.command_words import HEADINGS

    lines = text.split("\n")
    for english, japanese in HEADINGS.items():
        lines = [japanese + line[len(english) :] if line.startswith(english) else line for line in lines]
    return "\n".join(lines)


def _narrow(prog: str) -> argparse.HelpFormatter:
    """Lines of half as many letters, since most letters of Japanese take two places."""
    return argparse.HelpFormatter(prog, width=max(40, shutil.get_terminal_size().columns * 5 // 8))


def main_language(arguments: Sequence[str] | None) -> None:
    """Choose the language for one run of the command line."""
    speak(language_of(os.environ, asked_for(sys.argv[1:] if arguments is None else arguments)))
