"""Every problem and remedy that the readers of files raise has its Japanese, found in their source itself."""

from __future__ import annotations

import ast
import struct
from pathlib import Path

import pytest

from modelsmith.files import sentences
from modelsmith.files.sentences import JAPANESE
from modelsmith.identify import identify
from modelsmith.japanese import in_japanese

READERS = ("header", "safetensors_header", "pickled", "inert_pickle", "gguf", "sharded", "ranges", "zip_directory")
FOLDER = Path(sentences.__file__).parent


def template(node: ast.expr, names: dict[str, str]) -> str | None:
    """The text of an argument with {} for what is filled in, None where it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return names.get(node.id) if isinstance(node, ast.Name) else None


def texts_of(module: str) -> set[str]:
    """What the module passes to the exceptions of files and of pickles, and to the makers of those."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    names = {
        target.id: text
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and (text := template(node.value, {})) is not None
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = {"BadFileError": 1, "PickleError": 0, "fail": 0}.get(name)
        if first is not None:
            found |= {text for one in node.args[first:] if (text := template(one, names)) is not None}
    return found


@pytest.mark.parametrize("module", READERS)
def test_every_text_has_its_japanese(module: str) -> None:
    # "tensor {} {}" is filled with one of two endings, and both whole sentences are in the table
    assert texts_of(module) - set(JAPANESE) <= {"tensor {} {}"}


def test_the_scan_finds_texts() -> None:
    assert len(texts_of("safetensors_header")) > 12
    assert "it is a web page, not a model" in texts_of("header")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the file is empty", "ファイルが空です"),
        (
            "the header claims 10,000 bytes but the file has only 24",
            "ヘッダーは 10,000 バイトのはずが、ファイルは 24 バイトです",
        ),
        ("tensor 'a' overlaps the one before it", "テンソル 'a' が前のテンソルと重なっています"),
        (
            "tensor 'a {}' is malformed (its shape is impossible)",
            "テンソル 'a {}' の記述が正しくありません（あり得ない形状です）",
        ),
        ("something that nobody has said yet", "something that nobody has said yet"),
    ],
)
def test_texts_are_found_again_when_filled(text: str, expected: str) -> None:
    assert in_japanese(text) == expected


def test_a_report_of_a_damaged_file_speaks_japanese(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 10_000) + b"{}" + b" " * 20)
    report = identify(path)
    assert report.error is not None and report.error.endswith("The file is damaged: download or copy it again")
    assert report.to_json()["error"] == report.error
    assert report.to_json("ja")["error"] == (
        f"{path}: ヘッダーは 10,000 バイトのはずが、ファイルは 30 バイトです。"
        "ファイルが壊れています。もう一度ダウンロードまたはコピーしてください"
    )
