"""A LoRA that is extracted in a webui: the webui finds it, and what its prompt does with it a bake does too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="LoRAs need it")

import numpy as np

from host.pictures import colours
from host.server import Webui
from host.test_api_host import V1, ended

BASE, TUNED, NAME = "sd15.safetensors", "sd15-b.safetensors", "ms-difference"


def done(webui: Webui, path: str, **body: Any) -> dict[str, Any]:
    job = ended(webui, webui.post(f"{V1}/lora/{path}", {**body, "overwrite": True})["job"], 600)
    assert job["state"] == "done", job
    return job["result"]


def test_extracted_used_in_a_prompt_and_baked_in(webui: Webui, report: Callable[..., None]) -> None:
    made = done(webui, "extract", base=BASE, tuned=TUNED, rank=64, components="unet", output=NAME)
    assert made["output"] == f"{NAME}.safetensors" and made["modules"] > 150 and made["energy"] > 0.2
    found = [path for path in webui.data.rglob(made["output"]) if path.parent.name.lower() == "lora"]
    assert len(found) == 1, "it lies where the webui looks for LoRAs"
    match = done_check(webui, NAME)
    assert match["unmatched"] == {} and match["modules"] == made["modules"]

    webui.select(BASE.removesuffix(".safetensors"))

    def picture(prompt: str) -> Any:
        webui.txt2img(prompt=prompt, steps=2)
        return colours(webui.answer["images"][0]).astype(np.float64)

    plain, by_prompt = picture("a cat"), picture(f"a cat <lora:{NAME}:0.7>")
    assert np.array_equal(picture("a cat"), plain), "the webui takes the LoRA out again"
    baked = done(webui, "bake", checkpoint=BASE, loras=[{"name": NAME, "strength": 0.7}], output="sd15-ms-baked")
    assert baked["loras"][0]["unmatched"] == {}
    webui.refresh()
    webui.select("sd15-ms-baked")
    by_bake = picture("a cat")
    apart, near = np.abs(by_prompt - plain).mean(), np.abs(by_prompt - by_bake).mean()
    assert apart > 1.0, "the LoRA changes the picture"
    assert near < apart / 10, (near, apart)
    webui.select(BASE.removesuffix(".safetensors"))
    line = f"{made['modules']} modules; by prompt {apart:.2f} of 255 from plain, baked {near:.3f} from that"
    report("LoRA", webui.flavour, "extract, prompt, bake", line)


def done_check(webui: Webui, name: str) -> dict[str, Any]:
    job = ended(webui, webui.post(f"{V1}/lora/check", {"name": name, "checkpoint": BASE})["job"])
    assert job["state"] == "done", job
    return job["result"]["match"]
