"""reForge: recipe checkpoints are no text encoders of their own.

By default reForge looks for a text encoder of the checkpoint's name among all files of the checkpoints' folder, finds
the checkpoint itself, leaves out the text encoder of the weights at hand and reads the file a second time by itself.
Of a recipe checkpoint that file holds no weights. Without it in the list the merged text encoder is taken.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from modelsmith_webui.recipe_loading import is_recipe


def text_encoder_module() -> ModuleType | None:
    """The webui's module with the list; None where there is none (Classic, reForge's older branch)."""
    try:
        found = importlib.import_module("modules.sd_text_encoder")
    except ImportError:
        return None
    return found if hasattr(found, "list_text_encoders") and hasattr(found, "text_encoder_options") else None


def leave_recipes_out(module: ModuleType) -> None:
    """Take recipe checkpoints out of the webui's list, in place: others hold it too."""
    options: list[Any] = module.text_encoder_options
    options[:] = [option for option in options if not _is_recipe(option)]


def _is_recipe(option: Any) -> bool:
    path = getattr(getattr(option, "te_info", None), "filename", None)
    return path is not None and is_recipe(path)


def wrap_list(module: ModuleType, original: Callable[..., Any], holds: Callable[[], bool]) -> Callable[..., Any]:
    """The replacement of ``list_text_encoders``, which lists recipes again once ``holds`` says no."""

    def list_text_encoders(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if holds():
            leave_recipes_out(module)
        return found

    return list_text_encoders
