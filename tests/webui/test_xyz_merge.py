"""The axes that vary a merge: what they make of a recipe, and what they refuse before the first picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from modelsmith.errors import ModelsmithError
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import read_recipe_checkpoint, write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest
from modelsmith_webui import merging, xyz_merge
from modelsmith_webui.hosts import webui
from modelsmith_webui.hosts.standalone import StandaloneHost
from webui.demos import DEMOS


@pytest.fixture
def host(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> StandaloneHost:
    monkeypatch.setattr(webui, "chosen_checkpoint", lambda: DEMOS[0])
    monkeypatch.setattr(webui, "register_checkpoint", lambda path: path.name)
    return StandaloneHost(demo_folder)


def request(host: StandaloneHost, **more: Any) -> MergeRequest:
    models = tuple(host.models / name for name in DEMOS)
    return MergeRequest(models, "weighted_sum", host.models / "mix.safetensors", {"alpha": 0.25}, **more)


def recipe(host: StandaloneHost, name: str = "mix.recipe", **more: Any) -> str:
    plan = plan_merge(request(host, **more), writes=False)
    return write_recipe_checkpoint(plan, host.models / f"{name}.safetensors").path.name


def cell(host: StandaloneHost, checkpoint: str = "", **wanted: Any) -> Any:
    """One cell of a plot, as far as the axes go."""
    override = {"sd_model_checkpoint": checkpoint} if checkpoint else {}
    job = SimpleNamespace(override_settings=override, extra_generation_params={"kept": 1})
    made: dict[str, Any] = {}

    def option(label: str, kind: Any, apply: Any, **more: Any) -> Any:
        made[label.removeprefix(xyz_merge.LABEL)] = SimpleNamespace(label=label, type=kind, apply=apply, **more)

    xyz_merge.axes(option, host)
    for label, value in wanted.items():
        axis = made[{"lora": "LoRA strength"}.get(label, label)]
        axis.confirm(job, [value])
        axis.apply(job, value, [value])
    xyz_merge.prepare(host, job)
    return job


def recipe_of(host: StandaloneHost, job: Any) -> Any:
    path = host.data_folder() / xyz_merge.FOLDER / job.override_settings["sd_model_checkpoint"]
    return read_recipe_checkpoint(path).recipe


def test_alpha_and_a_block_of_the_chosen_recipe(host: StandaloneHost) -> None:
    name = recipe(host, block_weights={"alpha": "IN05=0.75"})
    job = cell(host, name, alpha=0.5, block="OUT03=1 M=0")
    found = recipe_of(host, job)
    assert found["parameters"]["alpha"] == 0.5
    blocks = found["blocks"]["alpha"]
    assert (blocks["IN05"], blocks["OUT03"], blocks["M00"], blocks["IN01"]) == (0.75, 1.0, 0.0, 0.5)
    assert job.extra_generation_params == {"kept": 1, xyz_merge.INFOTEXT: "alpha 0.5, block OUT03=1 M=0"}


def test_the_merge_of_the_tab_where_no_recipe_is_chosen(host: StandaloneHost) -> None:
    merging.remember_shown(host, request(host))
    assert recipe_of(host, cell(host, alpha=0.75))["parameters"]["alpha"] == 0.75
    assert recipe_of(host, cell(host, preset="GRAD_V"))["blocks"]["alpha"]["IN00"] == 1.0


def test_a_named_recipe_goes_before_the_chosen_one(host: StandaloneHost) -> None:
    recipe(host, "one.recipe")
    other = recipe(host, "two.recipe", rules={"alpha": "OUT03:attn2:0.9"})
    job = cell(host, "one.recipe.safetensors", recipe=other, alpha=0.1)
    assert recipe_of(host, job)["rules"] == {"alpha": "OUT03:attn2:0.9"}


def test_another_method_keeps_what_it_knows(host: StandaloneHost) -> None:
    found = recipe_of(host, cell(host, recipe(host), method="Slerp"))
    assert (found["method"], found["parameters"]["alpha"]) == ("slerp", 0.25)


def test_a_job_without_these_axes_is_left_alone(host: StandaloneHost) -> None:
    job = SimpleNamespace(override_settings={}, extra_generation_params={})
    xyz_merge.prepare(host, job)
    assert vars(job) == {"override_settings": {}, "extra_generation_params": {}}
    assert not (host.data_folder() / xyz_merge.FOLDER).exists()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"block": "OUT99=1"}, "OUT99"),
        ({"block": "OUT03=x"}, "number"),
        ({"preset": "GRAD_VV"}, "GRAD_V"),
        ({"method": "Wighted sum"}, "method"),
        ({"lora": "0.5"}, "has no LoRA"),
        ({"lora": "x=y"}, "no strength"),
        ({"recipe": DEMOS[0]}, "no recipe checkpoint"),
        ({"beta": 0.5}, "beta"),
    ],
)
def test_wrong_values_are_refused_before_the_first_picture(
    host: StandaloneHost, wanted: dict[str, Any], told: str
) -> None:
    with pytest.raises(RuntimeError, match=told):
        cell(host, recipe(host), **wanted)
    assert not (host.data_folder() / xyz_merge.FOLDER).exists()


def test_without_any_merge_the_plot_says_so(host: StandaloneHost) -> None:
    with pytest.raises(RuntimeError, match="Choose a recipe checkpoint"):
        cell(host, alpha=0.5)


def test_lora_strength_of_all_or_of_one(host: StandaloneHost) -> None:
    loras = tuple(LoraSpec(Path(f"{name}.safetensors"), 1.0, None) for name in ("style", "face"))
    wanted = replace(request(host), loras=loras)
    assert [one.strength for one in xyz_merge.varied(wanted, {"lora": "0.5"}).loras] == [0.5, 0.5]
    assert [one.strength for one in xyz_merge.varied(wanted, {"lora": "Face=0.25"}).loras] == [1.0, 0.25]
    with pytest.raises(ModelsmithError, match="no strength"):
        xyz_merge.varied(wanted, {"lora": "much"})


def test_what_earlier_plots_left_is_cleared(host: StandaloneHost) -> None:
    job = cell(host, recipe(host), alpha=0.5)
    path = host.data_folder() / xyz_merge.FOLDER / job.override_settings["sd_model_checkpoint"]
    assert path.exists()
    xyz_merge.add_axes([], host)
    assert not path.exists()
