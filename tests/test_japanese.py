"""Every sentence of an error, a note or a finding of the library has its Japanese, found in the source itself."""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import modelsmith
import modelsmith_webui
from modelsmith import errors, japanese
from modelsmith.errors import BadFileError, Cancelled, ModelsmithError, UnknownNameError, UsageError
from modelsmith.japanese import Said, in_japanese, tables
from modelsmith.merge.message_table import ERRORS, NOTICES, TERMS
from modelsmith.vae.sentences import SOURCES

LIBRARY = Path(modelsmith.__file__).parent
PATHLESS = {name for name in vars(errors) if isinstance(vars(errors)[name], type)} - {"BadFileError", "UnsafeFileError"}
OWN = ("NothingToCure", "ProofFailed", "OtherArchitectureError", "_OutputDiffers")
FIRST = dict.fromkeys((*PATHLESS, *OWN), 0) | {"BadFileError": 1}
WITHOUT = {"UnknownNameError"}
"""Its sentence is made of a kind and of names (``japanese.unknown_name``)."""


def templates(node: ast.expr, names: dict[str, list[str]]) -> list[str]:
    """The texts that an argument may be, with {} for what is filled in; none where it is no text that stands there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return templates(node.body, names) + templates(node.orelse, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = templates(node.left, names) or ["{}"], templates(node.right, names) or ["{}"]
        return [(one + other).replace("{}{}", "{}") for one in left for other in right]
    return names.get(node.id, []) if isinstance(node, ast.Name) else []


@cache
def raised(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and text of every sentence that a module gives to an error of the library."""
    return tuple(_raised(ast.parse(path.read_text(encoding="utf-8"))))


def _assigned(tree: ast.Module) -> dict[str, list[str]]:
    """The texts that each name of a module may stand for."""
    names: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, []).extend(templates(node.value, {}))
    return names


def _raised(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names = _assigned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in FIRST and name not in WITHOUT:
                for one in node.args[FIRST[name] :]:
                    for text in templates(one, names):
                        yield node.lineno, text


MODULES = [path for path in sorted(LIBRARY.rglob("*.py")) if path.name != "errors.py"]
AROUND = sorted(Path(modelsmith_webui.__file__).parent.rglob("*.py"))
"""Where errors are raised that only a page or the API shows."""


def is_nothing_but_filled(text: str) -> bool:
    return not any(letter.isalpha() for letter in text.replace("{}", ""))


def test_every_error_has_its_japanese() -> None:
    missing = [
        f"{path.name}:{line}: {text}"
        for path in (*MODULES, *AROUND)
        for line, text in raised(path)
        if text not in tables() and not is_nothing_but_filled(text)
    ]
    assert not missing, "\n".join(missing)


def test_the_walk_finds_sentences_of_every_room() -> None:
    found = {path.relative_to(LIBRARY).parts[0] for path in MODULES for _ in raised(path)}
    assert set(japanese.ROOMS) <= found
    assert sum(len(list(raised(path))) for path in MODULES) > 300


TOLD = {"Finding": (1, 2, 3), "Clue": (1,), "HeaderHealth": (3, 4)}
"""Where sentences stand among what these are made of."""
LISTS = ("notes", "problems")
TELLERS = {"_bad_values", "_position_story", "_evidence", "_damage"}
"""Functions that return or yield sentences."""
ELSEWHERE = {
    "_bad_values(path, cancelled)",
    "_disagreement(report)",
    "_said(error, path)",
    "finding.with_remedy()",
    "known.label",
    "unsettled",
    "vae.header.path.name",
}
"""Not written where it is told: names of files, what ``Said`` or one of the tellers has made."""


def told(tree: ast.Module) -> Iterator[ast.expr]:
    """Every expression that a module gives to a finding, a note or a report of a check."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in TELLERS:
            for one in ast.walk(node):
                if isinstance(one, (ast.Return, ast.Yield)) and one.value is not None:
                    yield from one.value.elts if isinstance(one.value, ast.Tuple) else [one.value]
        elif isinstance(node, ast.AugAssign) and ast.unparse(node.target).rpartition(".")[2] in LISTS:
            yield node.value.elt if isinstance(node.value, ast.ListComp) else node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            if ast.unparse(node.func.value).rpartition(".")[2] in LISTS:
                yield node.args[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in TOLD:
            yield from (node.args[at] for at in TOLD[ast.unparse(node.func)])


def test_every_note_and_finding_has_its_japanese() -> None:
    page = json.loads((LIBRARY.parents[1] / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))
    missing: list[str] = []
    found: set[str] = set()
    unwritten: set[str] = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = _assigned(tree)
        for one in told(tree):
            texts = templates(one, names)
            found.update(texts)
            place = f"{path.relative_to(LIBRARY)}:{one.lineno}: "
            if not texts and not ast.unparse(one).startswith("Said("):
                unwritten.add(ast.unparse(one))
            missing += [place + text for text in texts if text not in tables() and text not in page and
                        not is_nothing_but_filled(text)]  # fmt: skip
    assert not missing, "\n".join(missing)
    assert unwritten == ELSEWHERE
    assert len(found) > 45


def test_every_source_of_a_clue_has_its_japanese() -> None:
    tree = ast.parse((LIBRARY / "vae" / "families.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Clue"]
    assert {text for call in calls for text in templates(call.args[0], {})} == set(SOURCES)


def test_a_sentence_of_several_brings_its_japanese_along() -> None:
    import copy

    text = Said("a: b", "あ: い")
    for one in (text, copy.deepcopy(text)):
        assert one == "a: b" and json.dumps([one]) == '["a: b"]' and in_japanese(one) == "あ: い"


def kinds() -> set[str]:
    found: set[str] = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UnknownNameError":
                found.update(templates(node.args[0], {}))
    return found


def test_every_kind_of_unknown_name_has_its_japanese() -> None:
    assert kinds() and kinds() <= set(japanese._KINDS)


def fields(text: str) -> int:
    return sum(name is not None for _, name, _, _ in string.Formatter().parse(text))


def test_each_translation_is_filled_as_its_english_is() -> None:
    for english, said in tables().items():
        assert fields(english) == fields(said), english
        assert not english.isspace() and not said.isascii(), english


def test_rooms_agree_where_they_say_the_same() -> None:
    import importlib

    for room in japanese.ROOMS:
        for english, said in importlib.import_module(f"modelsmith.{room}.sentences").JAPANESE.items():
            assert tables()[english] == said, english


def test_tables_with_ids_hold_both_languages() -> None:
    for name, pair in [
        *NOTICES.items(),
        *TERMS.items(),
        *(item for key, two in ERRORS.items() for item in ((key, two[0]), (key, two[1]))),
    ]:
        fill = [{part for _, part, _, _ in string.Formatter().parse(text) if part} for text in pair]
        assert all(pair) and fill[0] == fill[1], name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("chunks", "Give it that ending"), ("chunks", "その拡張子を付けてください")),
        (
            BadFileError("/m/this is a model.ckpt", "it cannot be opened (Permission denied)", "Check its permissions"),
            ("/m/this is a model.ckpt: 開けません（Permission denied）", "アクセス権を確認してください"),
        ),
        (
            UsageError("/m/x exists already", "Choose another name or allow it to be replaced"),
            ("/m/x は既に存在します", "別の名前にするか、上書きを許可してください"),
        ),
        (Cancelled(), ("中止しました。何も書き出していません", "")),
        (
            UnknownNameError("merge method", "weigthed_sum", ["weighted_sum", "slerp"]),
            ("マージ方式 'weigthed_sum' は見つかりません", "'weighted_sum' のことですか?"),
        ),
        (
            UnknownNameError("parameter of Slerp", "zzz", ["alpha"]),
            ("Slerp のパラメーター 'zzz' は見つかりません", "指定できるもの: alpha"),
        ),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, ModelsmithError) else "",
)
def test_errors_speak_japanese(error: ModelsmithError, expected: tuple[str, str]) -> None:
    assert error.in_language("en") == (error.message, error.remedy)
    assert error.in_language("ja") == expected


def test_a_name_that_looks_like_a_sentence_stays_a_name() -> None:
    assert in_japanese("writing 'b is no number' failed (c is no folder)") == (
        "'b is no number' の書き込みに失敗しました（c is no folder）"
    )
