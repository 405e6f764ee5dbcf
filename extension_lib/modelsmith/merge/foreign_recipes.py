"""Reads recipes of other programs into our own form, as far as they can be expressed, and says what could not.

Facts of their forms: A1111 1.10.1 ``modules/extras.py`` (run_modelmerger), supermerger ``scripts/mergers/mergers.py``
(smerge), sd-mecha ``sd_mecha/serialization.py`` (format 0.1.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from modelsmith.merge import supermerger_xl
from modelsmith.merge.guard import Notice, notice
from modelsmith.merge.mecha_text import MechaNode, parse_mecha
from modelsmith.merge.messages import bad_file
from modelsmith.merge.methods import METHODS
from modelsmith.merge.recipe import RECIPE_VERSION

Found = tuple[dict[str, Any], tuple[Notice, ...]]

_A1111 = {"No interpolation": "weighted_sum", "Weighted sum": "weighted_sum", "Add difference": "add_difference"}
_CALCMODES = {
    "trainDifference": "train_difference",
    "smoothAdd": "smooth_add",
    "smoothAdd MT": "smooth_add",
    "cosineA": "cosine_a",
    "cosineB": "cosine_b",
    "extract": "extract",
    "tensor": "tensor_sum",
    "tensor2": "tensor_sum_columns",
}
_MODES = {
    "weight sum": "weighted_sum",
    "add difference": "add_difference",
    "triple sum": "triple_sum",
    "sum twice": "sum_twice",
}


def _lost(what: str) -> Notice:
    return notice("warning", "recipe-lost", what=what)


def _entries(hashes: Sequence[object], models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of inputs by hash, with the names that ``sd_merge_models`` gives them."""
    entries: list[dict[str, Any]] = []
    for digest in hashes:
        known: Any = models.get(str(digest)) or {}
        name = str(known.get("name") or digest)
        entries.append({"name": name, "file": name, "sha256": str(digest), "legacy_hash": known.get("legacy_hash")})
    return entries


def _recipe(method: str, models: list[dict[str, Any]], parameters: Mapping[str, float]) -> dict[str, Any]:
    own = {name: value for name, value in parameters.items() if any(name == p.id for p in METHODS[method].parameters)}
    return {"version": RECIPE_VERSION, "method": method, "parameters": own, "blocks": {}, "models": models}


def _known_method(path: Path, program: str, name: str, found: str | None) -> str:
    if found is None or found not in METHODS:
        raise bad_file(path, "recipe-method", program=program, name=name, known=", ".join(METHODS))
    return found


def from_a1111(path: Path, found: Mapping[str, Any], models: Mapping[str, Any]) -> Found:
    """A recipe of A1111's own merger. Raises BadFileError for an interpolation that it does not have."""
    asked = str(found.get("interp_method"))
    method = _known_method(path, "A1111", asked, _A1111.get(asked))
    hashes = [found.get(f"{place}_model_hash") for place in ("primary", "secondary", "tertiary")]
    alpha = float(found.get("multiplier") or 0.0)
    if asked == "No interpolation":
        hashes, alpha = [hashes[0], hashes[0]], 0.0
    recipe = _recipe(method, _entries(hashes[: METHODS[method].models[0]], models), {"alpha": alpha})
    recipe["dtype"] = "fp16" if found.get("save_as_half") else None
    recipe["output"] = f"{found.get('custom_name') or path.stem}.safetensors"
    notices = [notice("info", "recipe-approximate", what=asked)] if asked != "No interpolation" else []
    for key, plain in (("bake_in_vae", "None"), ("discard_weights", "")):
        if found.get(key) not in (None, plain):
            notices.append(_lost(f"{key} = {found[key]}"))
    return recipe, tuple(notices)


def from_supermerger(path: Path, found: Mapping[str, Any], models: Mapping[str, Any]) -> Found:
    """A recipe of supermerger. Raises BadFileError for a mode that is not known here (self, plus random)."""
    mode = str(found.get("mode") or "").split(":")[0].strip()
    calc = str(found.get("calcmode") or "normal")
    named = _MODES.get(mode.lower()) if calc == "normal" else _CALCMODES.get(calc)
    method = _known_method(path, "supermerger", mode if calc == "normal" else calc, named)
    parameters = {name: float(found.get(f"base_{name}") or 0.0) for name in ("alpha", "beta")}
    entries = _entries([found.get(f"model_{letter}") for letter in "abc"][: METHODS[method].models[0]], models)
    recipe = _recipe(method, entries, parameters)
    notices: list[Notice] = []
    long: dict[str, str] = {}
    if found.get("mbw"):
        recipe["blocks"], long = _supermerger_blocks(found, recipe["parameters"])
    recipe["rules"] = _supermerger_rules(found.get("elemental_merge"), long, notices)
    for key in ("Include", "Exclude"):
        _left_alone(key, [str(one) for one in cast("list[object]", found.get(key) or [])], recipe, notices)
    if calc == "extract":
        notices.append(_lost("extract, without its gamma"))
    recipe["output"] = f"{path.stem}-replayed.safetensors"
    notices.append(notice("info", "recipe-approximate", what=mode if calc == "normal" else calc))
    return recipe, tuple(notices)


def _supermerger_blocks(
    found: Mapping[str, Any], parameters: Mapping[str, float]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Weights by block, and rules where a list is finer. Its lists begin after BASE, whose weight is the plain one."""
    long: dict[str, str] = {}
    blocks: dict[str, list[float]] = {}
    for name, value in parameters.items():
        given = found.get(f"weights_{name}")
        if isinstance(given, str):
            given = [float(part) for part in given.split(",") if part.strip()]
        if not isinstance(given, list) or not given:
            continue
        row = [float(part) for part in cast("list[Any]", given)]
        if len(row) == len(supermerger_xl.NAMES):
            long[name] = supermerger_xl.as_rules(row)
            continue
        # 26 values and SDXL's 20 arrive without BASE; 61 of FLUX.1 begin with CLIP in its place.
        blocks[name] = [value, *row] if len(row) in (25, 19, 60) else row
    return blocks, long


def _supermerger_rules(given: object, long: Mapping[str, str], notices: list[Notice]) -> dict[str, str]:
    """The rules of its elemental merge behind those of long lists, with which its rules name blocks otherwise."""
    parts = [str(one) for one in cast("list[object]", given)] if isinstance(given, list) else [str(given or "")]
    kept = [part for part in parts if part.count(":") == 2]
    if long:
        lost = [part for part in kept if part.split(":")[0].strip()]
        notices.extend(_lost(f"elemental_merge {part}") for part in lost)
        kept = [part for part in kept if part not in lost]
    if "beta" in long:
        notices.append(_lost("a defect by which supermerger takes long lists of beta for alpha; here they are beta's"))
    rules = {**long, "alpha": ",".join(part for part in (long.get("alpha", ""), *kept) if part)}
    return {name: text for name, text in rules.items() if text}


_BLOCK = re.compile(r"(?:BASE|VAE|(?:IN|M|OUT|D|S)\d\d|IN|OUT|CLIP|T5)(?:-(?:IN|M|OUT|D|S)\d\d)?\Z")
_TAKEN_ALONG = {"IN00": "TIME", "OUT11": "FINAL"}


def _left_alone(key: str, chosen: Sequence[str], recipe: dict[str, Any], notices: list[Notice]) -> None:
    """Include and Exclude as rules of weight 0 behind all others: what they leave out stays as A has it.

    Each list holds blocks and pieces of names, and a tensor that is in both a block and under a name is turned back
    (supermerger's ``excluder``), which takes a rule for the blocks and one for the others.
    """
    words = [word for one in chosen for word in one.split() if word not in ("print", "")]
    blocks = [word for word in words if _BLOCK.match(word)]
    names = [word for word in words if word not in blocks and word != "Adjust"]
    weights = METHODS[recipe["method"]].neutral
    if "Adjust" in words or (words and not weights):
        notices.append(_lost(f"{key} {' '.join(words)}"))
        return
    blocks += [_TAKEN_ALONG[block] for block in blocks if block in _TAKEN_ALONG]
    inside, outside = " ".join(blocks), f"NOT {' '.join(blocks)}"
    under, others = " ".join(names), f"NOT {' '.join(names)}"
    without = key == "Include"
    rules: list[str] = []
    if blocks and names:
        rules = [f"{inside}:{under if without else others}:0", f"{outside}:{others if without else under}:0"]
    elif blocks:
        rules = [f"{outside if without else inside}::0"]
    elif names:
        rules = [f":{others if without else under}:0"]
    if len(names) > 1:
        notices.append(_lost(f"{key} for tensors under several of {under}"))
    if rules:
        given = cast("dict[str, str]", recipe.setdefault("rules", {}))
        for weight in weights:
            given[weight] = ",".join(part for part in (given.get(weight, ""), *rules) if part)


_MECHA = {
    "weighted_sum": ("weighted_sum", 2),
    "add_difference": ("add_difference", 3),
    "n_average": ("n_average", None),
    "slerp": ("slerp", 2),
    "geometric_sum": ("geometric", 2),
    "tensor_sum": ("tensor_sum", 2),
    "top_k_tensor_sum": ("top_k_tensor_sum", 2),
    "add_cosine_a": ("cosine_a", 2),
    "add_cosine_b": ("cosine_b", 2),
    "ties_sum": ("ties", None),
    "model_stock": ("model_stock", None),
    "rotate": ("rotate", 2),
}
_MECHA_NAMES = {"width": "alpha", "offset": "beta", "k": "density", "alignment": "alignment", "alpha": "alpha"}
_DIFFERING = ("add_cosine_a", "add_cosine_b", "rotate", "geometric_sum")


def from_mecha(path: Path, text: str) -> Found:
    """sd-mecha's text: one merge, or merges of merges where each has a counterpart here.

    Raises BadFileError for text that cannot be read, and for a method that has none.
    """
    reader = _Mecha(path)
    root = parse_mecha(path, text)
    recipe = reader.recipe(root)
    recipe["output"] = f"{path.stem}-replayed.safetensors"
    return recipe, tuple(dict.fromkeys(reader.notices))


class _Mecha:
    """Turns a graph into recipes; collects what is lost on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[Notice] = []

    def recipe(self, node: object) -> dict[str, Any]:
        """The recipe of a merge node; conversions and fallbacks around it are looked through."""
        core = self._core(node)
        if core is None or core.command != "merge":
            raise bad_file(self.path, "recipe-damaged", problem="its last step is no merge of models")
        name = str(core.args[0])
        inputs, parameters = list(core.args[1:]), dict(core.named)
        if name == "add_difference" and len(inputs) >= 2:
            subtraction = self._core(inputs[1])
            if subtraction is not None and subtraction.args[:1] == ("subtract",):
                inputs = [inputs[0], *subtraction.args[1:3], *inputs[2:]]
        known = _MECHA.get(name)
        method = _known_method(self.path, "sd-mecha", name, known[0] if known else None)
        count = known[1] if known and known[1] is not None else len(inputs)
        models, rest = inputs[:count], inputs[count:]
        low = METHODS[method].models[0]
        if len(models) < low or (name == "add_difference" and len(inputs) < 3):
            raise bad_file(self.path, "recipe-method", program="sd-mecha", name=name, known=", ".join(METHODS))
        if rest:
            parameters.setdefault("alpha", rest[0])
        recipe = _recipe(method, [self._model(one) for one in models], {})
        self._parameters(recipe, method, parameters)
        if name in _DIFFERING:
            self.notices.append(_lost(f"{name}'s own form; {METHODS[method].label} is used in its place"))
        return recipe

    def _core(self, node: object) -> MechaNode | None:
        while isinstance(node, MechaNode) and node.command == "merge" and self._passes(str(node.args[0])):
            if len(node.args) < 2:
                return None
            node = node.args[1]
        return node if isinstance(node, MechaNode) else None

    def _passes(self, name: str) -> bool:
        if name.startswith("convert_") or name == "cast":
            return True
        if name in ("fallback", "pick_component", "omit_component", "omit_non_finite", "clamp"):
            self.notices.append(_lost(f"the step {name}"))
            return True
        return False

    def _model(self, node: object) -> dict[str, Any]:
        core = self._core(node)
        if core is None:
            raise bad_file(self.path, "recipe-damaged", problem="a model is missing")
        if core.command == "model":
            name = str(core.args[0])
            return {"name": name, "file": name}
        recipe = self.recipe(core)
        name = f"({recipe['method']})"
        return {"name": name, "file": name, "recipe": recipe}

    def _parameters(self, recipe: dict[str, Any], method: str, given: Mapping[str, object]) -> None:
        wanted = {parameter.id: parameter for parameter in METHODS[method].parameters}
        for name, value in given.items():
            own = _MECHA_NAMES.get(name, name)
            number = self._number(value)
            if own not in wanted:
                self.notices.append(_lost(f"{name} = {value}"))
            elif isinstance(number, float):
                recipe["parameters"][own] = number
            elif isinstance(number, dict) and number and wanted[own].per_block:
                weights = {block.upper(): weight for block, weight in number.items()}
                if "BASE" in weights:  # sd-mecha keeps the embeddings there; here they follow IN00
                    weights.setdefault("TIME", weights["BASE"])
                    self.notices.append(notice("info", "recipe-embeddings", what="time_embed, label_emb"))
                recipe["blocks"][own] = weights
            else:
                self.notices.append(_lost(f"{name} = {value}"))

    def _number(self, value: object) -> float | dict[str, float] | None:
        """A number, or numbers by block; None for anything else."""
        if isinstance(value, bool):
            return None
        if isinstance(value, (int, float)):
            return float(value)
        core = self._core(value)
        if core is None:
            return None
        if core.command == "literal" and core.args:
            return self._number(core.args[0])
        if core.command == "dict":
            numbers = {name: self._number(one) for name, one in core.named.items()}
            return {name: one for name, one in numbers.items() if isinstance(one, float)}
        return None
