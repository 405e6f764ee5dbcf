"""The Japanese table holds every string of the tab, and none that is gone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ui_strings

from modelsmith_webui.tab.texts import Texts, translations

JAPANESE = Path(__file__).resolve().parents[2] / "localizations" / "ja_JP.json"


def test_the_table_is_complete_and_holds_nothing_stale(tab: Any) -> None:
    table = json.loads(JAPANESE.read_text(encoding="utf-8"))
    wanted = ui_strings.every_string(tab.get_config_file())
    assert sorted(wanted - set(table)) == []
    assert sorted(set(table) - wanted) == []


def test_no_translation_is_empty_or_loses_a_placeholder() -> None:
    for english, japanese in json.loads(JAPANESE.read_text(encoding="utf-8")).items():
        assert japanese.strip()
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", japanese)), english


def test_texts_follow_the_language_of_the_moment() -> None:
    chosen = [""]
    tr = Texts(lambda: chosen[0])
    assert tr("{time} left", time="3 s") == "3 s left"
    assert tr.message_language == "en"
    for name in ("ja_JP", "ja", "ja-JP"):
        chosen[0] = name
        assert tr("Merge") == "マージ"
        assert tr("{time} left", time="3 s") == "残り3 s"
        assert tr.message_language == "ja"
    chosen[0] = "tlh"
    assert tr("Merge") == "Merge"
    assert translations("None") == {}
