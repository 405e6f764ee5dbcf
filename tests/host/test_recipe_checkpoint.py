"""Recipe checkpoints in a running webui: the same pictures as the saved merge, and a clear failure where it must be."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="merges need it")

from host.checkpoints import SD1, write_lora
from host.pictures import cells, infotext, picture
from host.server import Webui, WebuiError
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest

PAIRS = {"sdxl": ("sdxl-v", "sdxl-v-ztsnr"), "sd15": ("sd15", "sd15-b")}
V1 = "/modelsmith/v1"


def request(webui: Webui, family: str, output: str, alpha: float = 0.4, weights: str = "") -> MergeRequest:
    models = tuple(webui.checkpoints / f"{name}.safetensors" for name in PAIRS[family])
    blocks = {"alpha": weights} if weights else {}
    target = webui.checkpoints / f"{output}.safetensors"
    return MergeRequest(models, "weighted_sum", target, {"alpha": alpha}, blocks, overwrite=True)


def recipe(webui: Webui, family: str, name: str, alpha: float = 0.4, weights: str = "") -> Path:
    plan = plan_merge(request(webui, family, "never-written", alpha, weights))
    path = write_recipe_checkpoint(plan, webui.checkpoints / f"{name}.safetensors", overwrite=True).path
    webui.refresh()
    return path


def saved(webui: Webui, family: str, name: str, alpha: float = 0.4, weights: str = "") -> Path:
    path = run_merge(plan_merge(request(webui, family, name, alpha, weights))).path
    webui.refresh()
    return path


@pytest.fixture
def own(webui: Webui) -> Iterator[Webui]:
    """The running webui; files of the test are removed afterwards."""
    before = set(webui.checkpoints.iterdir())
    yield webui
    webui.select("sd15")
    webui.txt2img()
    for path in set(webui.checkpoints.iterdir()) - before:
        path.unlink()
    webui.refresh()


@pytest.mark.parametrize("family", PAIRS)
def test_picture_of_the_recipe_is_that_of_the_saved_merge(own: Webui, family: str, report: Callable[..., None]) -> None:
    path = recipe(own, family, "mix-recipe")
    before = sorted(own.checkpoints.iterdir())
    own.select("mix-recipe")
    found = picture(own)
    steps, text = own.events(), infotext(own)
    assert sorted(own.checkpoints.iterdir()) == before
    saved(own, family, "mix-saved")
    own.select("mix-saved")
    assert picture(own) == found
    own.select(PAIRS[family][0])
    assert picture(own) != found
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    assert f"Model hash: {digest}," in text
    assert "Model: mix-recipe," in text
    first = next(event for event in steps if event["event"] == "step")
    assert first["prediction"] == ("v_prediction" if family == "sdxl" else "epsilon")
    report("recipe", own.flavour, family, first["prediction"], f"{first['sigma']:.2f}", f"{path.stat().st_size} bytes")


def test_loras_baked_into_a_recipe(own: Webui, report: Callable[..., None]) -> None:
    """Two LoRAs, one by block: the recipe shows the picture of the saved merge, and not that of the merge without."""
    folder = own.data / "models" / "Lora"
    paths = [write_lora(folder, f"baked-{seed}", SD1, seed=seed) for seed in (5, 6)]
    loras = (LoraSpec(paths[0], 0.8), LoraSpec(paths[1], -0.5, "OUT03=1,OUT04=0.25"))
    try:
        wanted = replace(request(own, "sd15", "lora-saved"), loras=loras)
        write_recipe_checkpoint(plan_merge(wanted), own.checkpoints / "lora-recipe.safetensors")
        run_merge(plan_merge(wanted))
        recipe(own, "sd15", "lora-none")
        own.select("lora-recipe")
        found = picture(own)
        own.select("lora-saved")
        assert picture(own) == found
        own.select("lora-none")
        assert picture(own) != found
        assert len(own.get(f"{V1}/recipe?name=lora-recipe.safetensors")["recipe"]["loras"]) == len(loras)
        report("recipe", own.flavour, "two LoRAs, one by block", "the picture of the saved merge")
    finally:
        for path in paths:
            path.unlink()


def test_changing_a_block_under_the_same_name_changes_the_picture(own: Webui, report: Callable[..., None]) -> None:
    recipe(own, "sdxl", "same-name")
    own.select("same-name")
    first = picture(own)
    recipe(own, "sdxl", "same-name", weights="OUT08=1")
    own.select("same-name")
    second = picture(own)
    recipe(own, "sdxl", "same-name")
    own.select("same-name")
    assert picture(own) == first != second
    told = re.findall(r"(\d+) tensors computed, (\d+) from the cache", own.output())
    if told:
        report("cache", own.flavour, "OUT08 changed", *told[-1])


def test_override_settings_and_hires_take_recipes(own: Webui) -> None:
    recipe(own, "sd15", "by-override")
    recipe(own, "sd15", "other", alpha=0.9)
    own.select("by-override")
    wanted = picture(own)
    own.select("sd15")
    override = {"override_settings": {"sd_model_checkpoint": "by-override.safetensors"}}
    assert picture(own, **override) == wanted
    assert "Model: by-override" in infotext(own)
    # What the webuis do not do without over the API.
    more = {"forge": {"hr_additional_modules": ["Use same choices"]}, "ldm_forge": {"hr_cfg_scale": 5.0}}
    upscaler = "None" if own.flavour == "neo" else "Latent"
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": upscaler, "denoising_strength": 0.6}
    hires |= more.get(own.kind, {})
    alone = picture(own, **override, **hires)
    second = picture(own, **override, **hires, hr_checkpoint_name="other.safetensors")
    assert second != alone


def test_identified_as_what_it_makes(own: Webui) -> None:
    recipe(own, "sdxl", "named")
    found = own.get(f"{V1}/identify?name=named.safetensors")
    assert found["recipe"] is True
    assert (found["kind"], found["architecture"], found["prediction"]["type"]) == ("checkpoint", "sdxl", "v_prediction")
    assert found["badge"].endswith("recipe")


def test_missing_model_fails_clearly_and_the_previous_model_stays(own: Webui, report: Callable[..., None]) -> None:
    recipe(own, "sdxl", "orphan")
    own.select("sdxl-eps")
    before = picture(own)
    hidden = own.checkpoints / "sdxl-v-ztsnr.safetensors"
    hidden.rename(hidden.with_suffix(".hidden"))
    own.refresh()
    try:
        said = ""
        try:
            own.select("orphan")
            own.txt2img()
            said = own.output()
        except WebuiError as error:
            said = f"{error} {own.output()}"
        assert "its model sdxl-v-ztsnr.safetensors" in said
        assert "refresh the list" in said
        loaded = own.get(f"{V1}/status")["loaded"]
        assert loaded is not None
        assert loaded["file"] == "sdxl-eps.safetensors"
    finally:
        hidden.with_suffix(".hidden").rename(hidden)
        own.refresh()
    own.select("sdxl-eps")
    assert picture(own) == before
    own.select("orphan")
    assert picture(own) != before
    report("missing model", own.flavour, "previous model kept", "works again when it is back")
    assert not list(own.checkpoints.glob("*.corrupted"))


# X/Y/Z plot, history


def test_axes_vary_the_chosen_recipe(own: Webui, report: Callable[..., None]) -> None:
    recipe(own, "sdxl", "strong", alpha=0.9)
    recipe(own, "sdxl", "plotted", alpha=0.2)
    own.select("strong")
    strong = picture(own)
    own.select("plotted")
    weak = picture(own)
    found = cells(own, "[Modelsmith] Merge: alpha", "0.2,0.9,0.2")
    assert [image for image, _ in found] == [weak, strong, weak]
    assert "Modelsmith merge: alpha 0.9" in found[1][1]
    assert picture(own) == weak
    entry = own.get(f"{V1}/history?infotext={urllib.parse.quote(found[1][1])}")[0]
    whole = own.get(f"{V1}/history/{entry['id']}")
    assert whole["recipe"]["parameters"]["alpha"] == 0.9
    blocks = cells(own, "[Modelsmith] Merge: block", "OUT=1,OUT03=0.2")
    assert blocks[1][0] == weak != blocks[0][0]
    report("X/Y/Z", own.flavour, "alpha and block", "cells equal the recipes' own pictures", entry["file"])


def test_a_recipe_is_saved_as_a_file_over_the_api(own: Webui) -> None:
    recipe(own, "sd15", "to-save")
    own.select("to-save")
    wanted = picture(own)
    job = own.post(f"{V1}/recipe/replay", {"name": "to-save.safetensors", "output": "from-recipe"})["job"]
    for _ in range(240):
        job = own.get(f"{V1}/jobs/{job['id']}")
        if job["state"] in ("done", "failed"):
            break
        time.sleep(0.5)
    assert job["state"] == "done", job
    own.select("from-recipe")
    assert picture(own) == wanted


# without the extension


def unknown_type(path: Path) -> Path:
    """The other end that was weighed: a header with a type that no reader knows."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
    table = {"__metadata__": metadata, "modelsmith.recipe": {"dtype": "RECIPE", "shape": [32], "data_offsets": [0, 32]}}
    text = json.dumps(table).encode()
    target = path.with_name("refused.safetensors")
    target.write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    return target


def test_without_the_extension_it_fails_and_stays_whole(
    make_webui: Callable[..., Webui], report: Callable[..., None]
) -> None:
    plain = make_webui("plain")
    plan = plan_merge(request(plain, "sdxl", "never-written"))
    path = write_recipe_checkpoint(plan, plain.checkpoints / "alone.safetensors").path
    data = path.read_bytes()
    other = unknown_type(path)
    plain.start()
    try:
        # Another model each time: Forge does not load the one from before a failure again.
        for name, first in (("alone", "sd15"), ("refused", "sd15-b")):
            try:
                plain.select(first)
                plain.txt2img()
            except WebuiError as error:
                # After any load that failed, Classic loads nothing until it is started again.
                assert plain.kind == "ldm_forge"
                assert "has no attribute 'sd_model'" in error.text
                report("no extension", plain.flavour, "afterwards", "no model loads until a restart")
                break
            seen = len(plain.output())
            said = ""
            try:
                plain.select(name)
                plain.txt2img()
            except WebuiError as error:
                said = str(error)
            log = plain.output()[seen:]
            lines = [
                line for line in (said + "\n" + log).splitlines() if re.search(r"rror|size mismatch|corrupt", line)
            ]
            whole = "whole" if (plain.checkpoints / f"{name}.safetensors").exists() else "moved away"
            report("no extension", plain.flavour, name, whole, " // ".join(line.strip()[:160] for line in lines[:6]))
            if name == "alone":
                assert lines, "nothing was said"
                assert path.read_bytes() == data
                title = plain.get("/sdapi/v1/options")["sd_model_checkpoint"]
                report("no extension", plain.flavour, "chosen afterwards", title)
        assert path.read_bytes() == data
        assert other.exists() or plain.kind == "forge"
    finally:
        plain.stop()
