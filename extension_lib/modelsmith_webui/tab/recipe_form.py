"""From a recipe back to the fields of the Merge view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelsmith.merge.guard import CHOICES
from modelsmith.merge.methods import get_method
from modelsmith.merge.recipe_checkpoint import RecipeCheckpoint, find_input
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.recipe_loading import sources_of
from modelsmith_webui.tab.merge_form import STOP_AT_MIX, LoraRow, MergeForm, rows_text
from modelsmith_webui.tab.words import PRECISIONS


def weights_text(weights: object) -> str:
    """Block weights of a recipe as the text that the editor reads."""
    if not isinstance(weights, Mapping):
        return str(weights or "")
    return ",".join(f"{name}={float(value):g}" for name, value in weights.items())


def form_of(host: Host, checkpoint: RecipeCheckpoint, name: str = "") -> MergeForm:
    """The form that asks for the same merge. Raises BadFileError for a model that is missing or changed."""
    recipe = checkpoint.recipe
    loras: list[Mapping[str, Any]] = list(recipe.get("loras") or [])
    files = host.model_files() if loras else host.checkpoints()
    sources = sources_of(host, loras=bool(loras))
    by_path: dict[Any, ModelFile] = {file.path: file for file in files}
    names = [by_path[find_input(checkpoint, model, sources)].name for model in recipe["models"]]
    rows = [
        LoraRow(by_path[find_input(checkpoint, one, sources)].name, float(one["strength"]), str(one["blocks"] or ""))
        for one in loras
    ]
    dtype = recipe.get("dtype")
    return MergeForm(
        models=tuple([*names, None, None, None][:3]),
        more=tuple(names[3:]),
        method=get_method(str(recipe["method"])).label,
        name=name,
        precision=next((word for word, known in PRECISIONS.items() if known == dtype), "as model A"),
        mix=CHOICES.get(str(recipe.get("allow_prediction_mix")), STOP_AT_MIX),
        loras=rows_text(rows),
        finetune=str(recipe.get("finetune") or ""),
        dtypes=dict(recipe.get("component_dtypes") or {}),
        parameters={key: float(value) for key, value in recipe["parameters"].items()},
        block_texts={key: weights_text(value) for key, value in (recipe.get("blocks") or {}).items()},
        rules={key: str(value) for key, value in (recipe.get("rules") or {}).items()},
    )
