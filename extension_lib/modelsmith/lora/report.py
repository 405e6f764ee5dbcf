"""What the LoRA tools did, as plain values: the same for command line and API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelsmith.japanese import Said, in_japanese

if TYPE_CHECKING:
    from modelsmith.lora.bake import BakePlan, BakeResult
    from modelsmith.lora.combine import CombinePlan, CombineResult
    from modelsmith.lora.extract import ExtractPlan, ExtractResult
    from modelsmith.lora.match import MatchReport


def matches_json(reports: Iterable[MatchReport]) -> list[dict[str, object]]:
    """How each LoRA fits the checkpoint: modules that found their place, and why the others did not."""
    return [
        {
            "file": str(report.path),
            "modules": report.modules,
            "unmatched": {name: Said(reason, in_japanese(reason)) for name, reason in report.unmatched.items()},
        }
        for report in reports
    ]


def bake_json(found: BakeResult) -> dict[str, object]:
    """A finished bake."""
    told = {"changed": found.changed, "loras": matches_json(found.reports)}
    return {**_written(found), **told}


def bake_plan_json(found: BakePlan) -> dict[str, object]:
    """A planned bake."""
    return {"bytes": found.bytes, "changed": found.changed, "loras": matches_json(found.reports)}


def extract_json(found: ExtractResult) -> dict[str, object]:
    """A finished extraction."""
    return {
        **_written(found),
        "modules": found.modules,
        "ranks": list(found.ranks),
        "energy": found.energy,
        "left_out": list(found.left_out),
        "missing": list(found.missing),
    }


def extract_plan_json(found: ExtractPlan) -> dict[str, object]:
    """A planned extraction."""
    return {
        "architecture": found.architecture,
        "prediction": found.prediction,
        "modules": found.modules,
        "most_bytes": found.most_bytes,
        "missing": list(found.missing),
    }


def combine_json(found: CombineResult) -> dict[str, object]:
    """A finished merge of LoRAs."""
    return {
        **_written(found),
        "modules": found.modules,
        "ranks": list(found.ranks),
        "energy": found.energy,
        "leftover": list(found.leftover),
    }


def combine_plan_json(found: CombinePlan) -> dict[str, object]:
    """A planned merge of LoRAs."""
    return {
        "architectures": list(found.architectures),
        "modules": found.modules,
        "ranks": list(found.ranks),
        "leftover": list(found.leftover),
    }


def _written(found: BakeResult | CombineResult | ExtractResult) -> dict[str, object]:
    return {
        "path": str(found.path),
        "sha256": found.sha256,
        "bytes": found.bytes,
        "seconds": round(found.seconds, 3),
    }
