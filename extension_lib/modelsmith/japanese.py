"""What the library says in errors, notes and findings, in Japanese: found by its English text in the rooms' tables.

An error of a table with ids (``merge.messages``) knows its Japanese itself; all others are looked up here, so that the
place that raises one only writes English.  ``{}`` stands for what is filled in, in the Japanese also ``{0}``, ``{1}`` …
where the order differs.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import cast

ROOMS = ("files", "merge", "convert", "lora", "vae")
_tables = [f"modelsmith.{room}.sentences" for room in ROOMS]

_KINDS: Mapping[str, str] = {
    "part": "部分",
    "precision": "精度",
    "component": "構成要素",
    "tensor type": "テンソルの型",
    "torch dtype": "torch の型",
    "block of {}": "{} のブロック",
    "program": "プログラム",
    "adjustment": "調整",
    "prediction choice": "予測タイプの指定",
    "parameter of {}": "{} のパラメーター",
    "merge method": "マージ方式",
    "preset": "プリセット",
    "VAE family": "VAE の系統",
    "command": "コマンド",
    "model file": "モデルファイル",
    "history entry": "履歴",
    "job": "ジョブ",
    "{} override": "{} の指定",
    "CFG rescale (a number from 0 to 1)": "CFG rescale（0 から 1 の数値）",
}
"""What ``UnknownNameError`` says is unknown."""

GRADES: Mapping[str, str] = {"proof": "確実", "strong": "有力", "weak": "弱い", "default": "推定"}
"""How much a piece of evidence proves."""


class Said(str):
    """A sentence that brings its Japanese along, because it is put together of others: a list, a fault and its remedy.

    It is its English text. What is made of it by formatting or cutting is plain text again.
    """

    japanese: str

    def __new__(cls, english: str, japanese: str = "") -> Said:
        """japanese: empty only where a copy is made, which gets it with the other attributes."""
        made = super().__new__(cls, english)
        made.japanese = japanese
        return made


def in_japanese(text: str) -> str:
    """The Japanese for a message, a remedy, a note or a finding, as it is where no table has it."""
    if isinstance(text, Said):
        return text.japanese
    return _found(text, _patterns(), tables())


def filled_in(text: str, table: Mapping[str, str]) -> str:
    """The Japanese for a text by a table of its own, with what fills it; the text as it is where the table has none."""
    return _found(text, _compiled(tuple(table.items())), table)


def unknown_name(kind: str, name: str, near: str | None, known: Iterable[str]) -> tuple[str, str]:
    """What ``UnknownNameError`` says: message and remedy."""
    said = filled_in(kind, _KINDS)
    remedy = f"{near!r} のことですか?" if near else f"指定できるもの: {', '.join(known)}"
    return f"{said} {name!r} は見つかりません", remedy


@lru_cache(maxsize=1)
def tables() -> Mapping[str, str]:
    """All sentences of all rooms, and of packages that have added theirs, Japanese by English."""
    found: dict[str, str] = {}
    for name in _tables:
        found.update(cast("Mapping[str, str]", importlib.import_module(name).JAPANESE))
    return found


def add_table(module: str) -> None:
    """Have the sentences of a package around the library found too: ``JAPANESE`` of this module, read when needed."""
    if module not in _tables:
        _tables.append(module)
        tables.cache_clear()
        _patterns.cache_clear()


_Patterns = tuple[tuple[re.Pattern[str], str, bool], ...]


def _found(text: str, patterns: _Patterns, whole: Mapping[str, str], *, inside: bool = False) -> str:
    """inside: what fills a sentence is translated only where it begins like a reason does, for a name or a path could
    look like any sentence that begins with what is filled in."""
    if text in whole:
        return whole[text]
    for pattern, japanese, anchored in patterns:
        match = pattern.fullmatch(text) if anchored or not inside else None
        if match:
            return japanese.format(*(_found(group, patterns, whole, inside=True) for group in match.groups()))
    return text


@lru_cache(maxsize=1)
def _patterns() -> _Patterns:
    return _compiled(tuple(tables().items()))


@lru_cache(maxsize=4)
def _compiled(pairs: tuple[tuple[str, str], ...]) -> _Patterns:
    """The texts with something filled in, the most particular first; and whether they begin with words."""
    filled = sorted(
        ((english, japanese) for english, japanese in pairs if "{}" in english),
        key=lambda pair: -len(pair[0].replace("{}", "")),
    )
    return tuple(
        (
            re.compile("(.*?)".join(map(re.escape, english.split("{}"))), re.DOTALL),
            japanese,
            not english.startswith("{}"),
        )
        for english, japanese in filled
    )
