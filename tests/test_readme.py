"""What the README says of the merge methods is what the registry says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelsmith.merge.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent


JAPANESE = json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))
HEADS = {"README.md": "| method | formula | what it does |", "README.ja.md": "| 方式 | 式 | 内容 |"}


def methods_table(name: str) -> str:
    """The table of all merge methods, from their specifications, in the language of the file."""
    rows = [HEADS[name], "|---|---|---|"]
    for spec in METHODS.values():
        formula = spec.formula.replace("|", "\\|")
        summary = JAPANESE[spec.summary] if name == "README.ja.md" else spec.summary
        rows.append(f"| `{spec.id}` | {formula} | {summary} |")
    return "\n".join(rows)


@pytest.mark.parametrize("name", list(HEADS))
def test_the_table_of_methods_is_the_registrys(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = text.split("<!-- methods -->")[1].split("<!-- /methods -->")[0].strip()
    assert found == methods_table(name)
