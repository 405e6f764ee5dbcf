"""In a reForge with its own default for text encoders: recipe checkpoints, and the checkpoints that they are made of.

By default reForge takes every checkpoint for a text encoder of the same name too, and reads that part again from the
file. A recipe's file has no weights to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("torch", reason="merges need it")

from host.ldm_forge_expectations import PLAIN, generate, is_classic
from host.pictures import picture
from host.server import Webui
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest

WEBUI = "ldm_forge"

NAMES = ("sd15", "sdxl-v", "sdxl-v-ztsnr")


@pytest.fixture(scope="module")
def started(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    """The recipe is there when the webui lists its text encoders, and is the first model that it loads."""
    webui = make_webui("text", list(NAMES))
    if is_classic(webui):
        pytest.skip("Classic has no such list")
    models = tuple(webui.checkpoints / f"{name}.safetensors" for name in NAMES[1:])
    request = MergeRequest(models, "weighted_sum", webui.checkpoints / "never-written.safetensors", {"alpha": 0.4})
    write_recipe_checkpoint(plan_merge(request), webui.checkpoints / "first.safetensors")
    webui.install_extension()
    webui.configure(sd_text_encoder="Automatic", sd_model_checkpoint="first.safetensors")
    webui.start()
    yield webui
    webui.stop()


def test_a_recipe_is_loaded_first(started: Webui) -> None:
    assert started.state()["model"]["file"] == "first.safetensors"
    step = started.txt2img()[0]
    assert (step["file"], step["prediction"]) == ("first.safetensors", "v_prediction")
    assert step["sigma"] == pytest.approx(PLAIN, rel=1e-5)


def test_only_the_recipe_keeps_its_own_text_encoder(started: Webui) -> None:
    """All others are read twice, as the webui wants it; the pictures are the same as with the option at None."""
    seen = len(started.output())
    generate(started, "sdxl-v-ztsnr")
    assert "Skipping checkpoint CLIP loading - will use separate TE: TE: sdxl-v-ztsnr" in started.output()[seen:]
    started.select("first")
    found = picture(started)
    assert "separate TE: TE: first" not in started.output()
    started.options(sd_text_encoder="None")
    started.select("sd15")
    started.select("first")
    assert picture(started) == found
