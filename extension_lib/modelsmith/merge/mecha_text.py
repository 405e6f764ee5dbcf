"""Reads sd-mecha's textual recipes (format 0.1.0) into a graph of plain nodes; nothing of it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelsmith.merge.messages import bad_file

_CONSTANTS: Mapping[str, object] = {"null": None, "true": True, "false": False}
_COMMANDS = ("dict", "literal", "model", "merge")
MAX_LINES = 100_000


@dataclass(frozen=True)
class MechaNode:
    """One line: its command, and its arguments, of which references (``&3``) are nodes already."""

    command: str
    args: tuple[object, ...] = ()
    named: Mapping[str, object] = field(default_factory=dict[str, object])

    def __str__(self) -> str:
        return f"{self.command} {self.args[0]}" if self.args else self.command


def parse_mecha(path: Path, text: str) -> MechaNode:
    """The last node of a recipe. Raises BadFileError with the number of the line that cannot be read."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("version 0.1"):
        raise bad_file(path, "recipe-damaged", problem="it does not begin with 'version 0.1.0'")
    nodes: list[MechaNode] = []
    for number, line in enumerate(lines[1:MAX_LINES], start=2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            nodes.append(_node(line.strip(), nodes))
        except ValueError as error:
            raise bad_file(path, "recipe-damaged", problem=f"line {number}: {error}") from error
    if not nodes:
        raise bad_file(path, "recipe-damaged", problem="it has no steps")
    return nodes[-1]


def _node(line: str, before: list[MechaNode]) -> MechaNode:
    command, *words = _words(line)
    if command[0] != "" or command[1] not in _COMMANDS:
        raise ValueError(f"unknown command {command[1]!r}")
    args: list[object] = []
    named: dict[str, object] = {}
    for name, text, quoted in words:
        value = text if quoted else _value(text, before)
        if name:
            named[name] = value
        else:
            args.append(value)
    return MechaNode(command[1], tuple(args), named)


def _value(text: str, before: list[MechaNode]) -> object:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.startswith("&"):
        place = int(text[1:])
        if not 0 <= place < len(before):
            raise ValueError(f"{text} refers to no step before it")
        return before[place]
    number = float(text)
    return number if any(mark in text.lower() for mark in (".", "e", "n")) else int(text)


def _words(line: str) -> list[tuple[str, str, bool]]:
    """The words of a line as (name before ``=`` or empty, text, whether it stood in quotes)."""
    words: list[tuple[str, str, bool]] = []
    place = 0
    while place < len(line):
        if line[place] == " ":
            place += 1
            continue
        name, place = _name(line, place)
        if place < len(line) and line[place] == '"':
            text, place = _quoted(line, place + 1)
            words.append((name, text, True))
        else:
            end = line.find(" ", place)
            end = len(line) if end < 0 else end
            words.append((name, line[place:end], False))
            place = end
    return words


def _name(line: str, place: int) -> tuple[str, int]:
    """The name in front of ``=``, and where the value begins."""
    end = place
    while end < len(line) and (line[end].isalnum() or line[end] in "_-./"):
        end += 1
    return (line[place:end], end + 1) if end > place and line[end : end + 1] == "=" else ("", place)


def _quoted(line: str, place: int) -> tuple[str, int]:
    letters: list[str] = []
    while place < len(line):
        if line[place] == "\\" and place + 1 < len(line):
            letters.append(line[place + 1])
            place += 2
            continue
        if line[place] == '"':
            return "".join(letters), place + 1
        letters.append(line[place])
        place += 1
    raise ValueError("a quotation mark is missing")
