"""Finds every English string that the tab can show, in the places where such strings stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelsmith import sampling_advice
from modelsmith.merge.blocks import LAYOUTS, PLAIN, VAE_LAYOUT
from modelsmith.merge.guard import CHOICES
from modelsmith_webui import probing
from modelsmith_webui.tab import block_editor, convert_words, history_page, lora_words, remedies, report_page, words
from modelsmith_webui.tab.library_page import COLUMNS
from modelsmith_webui.tab.merge_form import STOP_AT_MIX, methods

# A formula that says something in words; others are the same in every language.
PROSE = re.compile(r"\b(?:the|of|with|and|as|whose|keeps|from)\b")

ROOT = Path(__file__).resolve().parents[2]
WEBUI = ROOT / "extension_lib" / "modelsmith_webui"
SCRIPTS = (*sorted((ROOT / "javascript").glob("*.js")), WEBUI / "assets" / "standalone.js")

# The same in every language: names of formats, models and numbers.
UNTRANSLATED = frozenset(
    {"VAE", "LoRA", "ControlNet", "EDM", "ZTSNR", "Cascade", "fp16", "bf16", "fp32", "SHA-256", "EMA", "Modelsmith"}
    | {"diffusers", "kohya"}
    | {
        "Alpha",
        "Beta",
        "Gamma",
        "TIES",
        "DELLA",
        "DARE",
        "DARE-TIES",
        "Slerp",
        "BASE",
        "IN",
        "MID",
        "OUT",
        "epsilon",
    }
    | convert_words.SAME
)


def calls_of_tr() -> Iterator[str]:
    """What the Python of the tab gives to ``tr(...)``: literals, and constants of the same module."""
    for path in sorted(WEBUI.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in ("tr", "_tr"):
                continue
            given = [node.args[0].body, node.args[0].orelse] if isinstance(node.args[0], ast.IfExp) else [node.args[0]]
            for value in given:
                if isinstance(value, ast.Constant):
                    yield str(value.value)
                elif isinstance(value, ast.Name) and value.id in constants:
                    yield str(constants[value.id])


def settings_strings() -> Iterator[str]:
    """Labels and explanations of the settings: the literals of ``add(NAME, "label", "info")`` and of the section."""
    for node in ast.walk(ast.parse((WEBUI / "settings.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "add":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def script_strings() -> Iterator[str]:
    """What the scripts translate or put into the page themselves."""
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r'\btr\("([^"]+)"[,)]', text)
        yield from re.findall(r'\.title = "([^"]+)"', text)


def component_strings(config: dict[str, Any]) -> Iterator[str]:
    """Labels, placeholders, choices and button texts of the built page."""
    for component in config["components"]:
        props = component["props"]
        for key in ("label", "placeholder", "info"):
            if isinstance(props.get(key), str) and props[key]:
                yield props[key]
        if component["type"] == "button":
            yield props["value"]
        if component["type"] == "radio":
            yield from (choice[0] if isinstance(choice, (list, tuple)) else choice for choice in props["choices"])


def table_strings() -> Iterator[str]:
    """The words behind the library's ids, and what the registries bring."""
    for table in (
        words.KINDS,
        words.PREDICTIONS,
        words.GRADES,
        words.SAYS,
        words.YES_NO,
        words.EMA,
        words.PARTS,
        words.STATES,
        words.LAYOUTS,
    ):
        yield from table.values()
    for labels in (words.OVERRIDE_PREDICTIONS.values(), words.OVERRIDE_ZTSNR.values(), words.PRECISIONS):
        yield from labels
    yield from convert_words.every_word()
    yield from lora_words.every_word()
    yield from sampling_advice.TEXTS.values()
    yield from probing.TEXTS.values()
    yield from COLUMNS
    yield from (*history_page.COLUMNS, *history_page.KINDS.values(), *history_page.STATES.values())
    yield from ("Part", "Precision", "Size", "State")
    yield from (STOP_AT_MIX, *CHOICES.values())
    yield from (word for _, word in block_editor.CONTENTS)
    yield from (*block_editor.SETS.values(), *remedies.PRESET_TEXTS.values(), *report_page.WAYS.values())
    for spec in methods().values():
        yield from (spec.label, spec.summary)
        if PROSE.search(spec.formula):
            yield spec.formula
    yield from (parameter.label for spec in methods().values() for parameter in spec.parameters)
    for layout in (*LAYOUTS.values(), VAE_LAYOUT, PLAIN):
        yield from (re.sub(r" \d+$", "", block.label) for block in layout.blocks)


def every_string(config: dict[str, Any]) -> set[str]:
    """All of it, without what is the same in every language."""
    found: set[str] = set()
    for source in (calls_of_tr(), settings_strings(), script_strings(), component_strings(config), table_strings()):
        found.update(source)
    return {text for text in found if text not in UNTRANSLATED and re.search(r"[A-Za-z]{2}", text)}
