"""Rows of LoRAs with their strengths, as the page's script keeps them in a field (javascript/modelsmith_loras.js)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host, ModelFile, find_file
from modelsmith_webui.tab.html import tag

if TYPE_CHECKING:
    from modelsmith.lora.stack import LoraSpec


@dataclass(frozen=True)
class LoraRow:
    """One row of the list of LoRAs, as the page writes it."""

    name: str
    strength: float = 1.0
    blocks: str = ""

    @staticmethod
    def parse(text: str) -> tuple[LoraRow, ...]:
        """The rows in the page's JSON; rows without a file are left out. Raises UsageError for a wrong number."""
        try:
            found = cast("list[dict[str, Any]]", json.loads(text)) if text.strip() else []
            rows = [(str(row["name"]), row.get("strength", 1.0), str(row.get("blocks") or "")) for row in found]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UsageError("the list of LoRAs cannot be read", "Remove its rows and add them again") from None
        return tuple(LoraRow(name, _strength(name, value), blocks) for name, value, blocks in rows if name)


def _strength(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if not -100 <= number <= 100:
        raise UsageError(f"the strength of {name} is {value!r}", "Give a number, usually between -2 and 2")
    return number


def rows_text(rows: Iterable[LoraRow]) -> str:
    """Rows as the page reads them."""
    found = [{"name": row.name, "strength": row.strength, "blocks": row.blocks} for row in rows]
    return json.dumps(found, ensure_ascii=False) if found else ""


def lora_files(host: Host) -> list[ModelFile]:
    """The host's LoRAs."""
    return [file for file in host.model_files() if file.kind == "lora"]


def find_lora(files: list[ModelFile], name: str) -> ModelFile:
    """The LoRA of a name. Raises UsageError where there are none at all, UnknownNameError."""
    if not files:
        raise UsageError(f"{name!r} is not there: the host has no LoRA files", "Put it into a folder of the host")
    return find_file(files, name)


def specs_of(host: Host, text: str) -> tuple[LoraSpec, ...]:
    """The LoRAs in the page's JSON. Raises UsageError, UnknownNameError."""
    from modelsmith.lora.stack import LoraSpec

    rows = LoraRow.parse(text)
    files = lora_files(host) if rows else []
    return tuple(LoraSpec(find_lora(files, row.name).path, row.strength, row.blocks.strip() or None) for row in rows)


def rows_html(host: Host, field: str) -> str:
    """The place where the script draws the rows, with the LoRAs that the host has now. field: the id of the field that
    keeps them."""
    names = json.dumps([file.name for file in lora_files(host)], ensure_ascii=False, separators=(",", ":"))
    return tag("div", "", "ms-loras", data_names=names, data_text=field)
