"""Axes of the X/Y/Z plot that vary a merge: each cell is the picture of the merge that was saved apart, byte for byte.

The base is a triple sum of three models with a LoRA baked in, chosen as a recipe checkpoint. The models that the cells
are compared with are made by the engine from requests that this file writes out, not by the code of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch", reason="merges need it")

from host.checkpoints import SD1, Recipe, write, write_lora
from host.pictures import cells, picture, plot
from host.server import Webui
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest

AXIS = "[Modelsmith] Merge: "
BASE = "axes"
OUT_AT_ZERO = [f"OUT{number:02d}=0" for number in range(12)]
# Of each axis: its values as they are typed, and what the merges that the cells show differ in from the base.
CASES: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "beta": ("0,0.6", ({"beta": 0.0}, {"beta": 0.6})),
    "method": ("Add difference,Triple sum", ({"method": "add_difference"}, {})),
    "preset": ("GRAD_V,MID12_50", ({"blocks": {"alpha": "GRAD_V"}}, {"blocks": {"alpha": "MID12_50"}})),
    "block": (
        "OUT03=1,beta:IN02=0.7 OUT=0",
        ({"blocks": {"alpha": "OUT03=1"}}, {"blocks": {"beta": ",".join(["IN02=0.7", *OUT_AT_ZERO])}}),
    ),
    "LoRA strength": ("0,axes=1.5", ({"lora": 0.0}, {"lora": 1.5})),
}


def base(webui: Webui) -> MergeRequest:
    models = tuple(webui.checkpoints / f"{name}.safetensors" for name in ("sd15", "sd15-b", "sd15-c"))
    lora = LoraSpec(webui.data / "models" / "Lora" / f"{BASE}.safetensors", 0.8)
    numbers = {"alpha": 0.3, "beta": 0.2}
    return MergeRequest(models, "triple_sum", webui.checkpoints / f"{BASE}.safetensors", numbers, loras=(lora,))


def saved(webui: Webui, name: str, change: dict[str, Any]) -> str:
    """The picture of the merge with these changes, written as a file by the engine."""
    request = base(webui)
    method = change.get("method", request.method)
    own = ("alpha", "beta") if method == "triple_sum" else ("alpha",)
    numbers = {number: change.get(number, request.parameters[number]) for number in own}
    loras = tuple(replace(one, strength=change.get("lora", one.strength)) for one in request.loras)
    target = webui.checkpoints / f"{name}.safetensors"
    request = replace(request, method=method, parameters=numbers, loras=loras, output=target)
    run_merge(plan_merge(replace(request, block_weights=change.get("blocks", {}))))
    webui.refresh()
    webui.select(name)
    return picture(webui)


@pytest.fixture(scope="module")
def plotting(running: Webui) -> Iterator[Webui]:
    """The running webui with the base of the plots chosen; what belongs to them is removed afterwards."""
    before = set(running.checkpoints.iterdir())
    write(running.checkpoints, Recipe("sd15-c", SD1, seed=2))
    lora = write_lora(running.data / "models" / "Lora", BASE, SD1)
    plan = plan_merge(base(running), writes=False)
    write_recipe_checkpoint(plan, running.checkpoints / f"{BASE}.recipe.safetensors")
    other = replace(base(running), parameters={"alpha": 0.8, "beta": 0.1})
    write_recipe_checkpoint(plan_merge(other, writes=False), running.checkpoints / f"{BASE}-other.recipe.safetensors")
    running.refresh()
    yield running
    running.select("sd15")
    running.txt2img()
    for path in {*running.checkpoints.iterdir()} - before:
        path.unlink()
    lora.unlink()
    running.refresh()


@pytest.mark.parametrize("axis", CASES)
def test_cells_are_the_saved_merges(plotting: Webui, axis: str, report: Callable[..., None]) -> None:
    typed, changes = CASES[axis]
    plotting.select(f"{BASE}.recipe")
    found = cells(plotting, AXIS + axis, typed)
    pictures = [image for image, _ in found]
    assert len(set(pictures)) == len(changes)
    number = list(CASES).index(axis)
    assert pictures == [saved(plotting, f"saved-{number}-{index}", one) for index, one in enumerate(changes)]
    told = axis.removesuffix(" strength").lower()
    for (_, text), value in zip(found, typed.split(","), strict=True):
        value = f"{float(value)}" if axis == "beta" else value
        assert f"Modelsmith merge: {told} {value}" in text.replace('"', "")
    report("X/Y/Z", plotting.flavour, axis, typed, "each cell is the picture of the merge saved apart")


def test_two_axes_at_once_and_the_recipe_named(plotting: Webui, report: Callable[..., None]) -> None:
    """A recipe on one axis, a number on the other, while an ordinary model is chosen."""
    plotting.select("sd15-b")
    plain = picture(plotting)
    names = ",".join(f"{name}.recipe.safetensors" for name in (BASE, f"{BASE}-other"))
    found = plot(plotting, (f"{AXIS}recipe", names), (f"{AXIS}beta", "0.05,0.15"))
    wanted = [
        saved(plotting, f"saved-two-{number}", {"alpha": alpha, "beta": beta})
        for number, (beta, alpha) in enumerate([(0.05, 0.3), (0.05, 0.8), (0.15, 0.3), (0.15, 0.8)])
    ]
    assert [image for image, _ in found] == wanted
    assert len({*wanted, plain}) == 5
    plotting.select("sd15-b")
    assert picture(plotting) == plain
    report("X/Y/Z", plotting.flavour, "recipe by beta", names, "four cells, each the picture of the merge saved apart")
