"""In a running Forge: which modules a checkpoint is loaded with, as Forge itself writes when it loads."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host.server import Webui
from host.vae_files import change_vae, write_clip_l, write_vae_file

WEBUI = ("forge", "neo")

WRONG, FITTING, UNTOLD, WIDE, TEXT = "anime-xl", "photo-sd1", "untold", "sixteen", "clip_l"


@pytest.fixture(scope="module")
def started(make_webui: Callable[..., Webui], checkpoint_folder: Path) -> Iterator[Webui]:
    webui = make_webui("vae", ["sd15", "sdxl-eps"])
    for name, remove in (("without", True), ("broken", False)):
        change_vae(checkpoint_folder / "sd15.safetensors", webui.checkpoints / f"{name}.safetensors", remove=remove)
    folder = webui.data / "models" / "VAE"
    write_vae_file(folder / f"{WRONG}.safetensors", family="sdxl", seed=1)
    write_vae_file(folder / f"{FITTING}.safetensors", family="sd", seed=2)
    write_vae_file(folder / f"{UNTOLD}.safetensors", seed=3)
    write_vae_file(folder / f"{WIDE}.safetensors", channels=16, seed=4)
    texts = webui.data / "models" / "text_encoder"
    texts.mkdir()
    write_clip_l(texts / f"{TEXT}.safetensors")
    webui.install_extension()
    webui.start()
    yield webui
    webui.stop()


@pytest.fixture
def webui(started: Webui) -> Webui:
    started.options(modelsmith_vae=True, forge_additional_modules=[])
    started.select("sd15")
    return started


def choose(webui: Webui, *names: str) -> None:
    webui.options(forge_additional_modules=[f"{name}.safetensors" for name in names])


def option(webui: Webui) -> list[str]:
    return [Path(name).stem for name in webui.get("/sdapi/v1/options")["forge_additional_modules"]]


def in_use(webui: Webui) -> list[str]:
    """Make a picture; the modules of the model that made it, from what Forge wrote when it last loaded."""
    webui.txt2img(steps=1)
    lines = re.findall(r"^Loading Model: (.+)$", webui.output(), re.MULTILINE)
    found = re.search(r"'additional_modules': (\[.*?\])", lines[-1])
    assert found is not None
    return [Path(name).stem for name in ast.literal_eval(found.group(1))]


def loads(webui: Webui) -> int:
    """Models loaded by the last job."""
    return sum(event["event"] == "model_loaded" for event in webui.events())


def infotext(webui: Webui) -> str:
    return json.loads(webui.answer["info"])["infotexts"][0]


def told(webui: Webui) -> dict[str, Any]:
    return webui.get("/modelsmith/v1/vae")["vae"]


def test_wrong_family_is_refused_with_a_clear_word(webui: Webui, report: Callable[..., None]) -> None:
    choose(webui, WRONG, TEXT)
    expected = f"{WRONG}.safetensors is not used: it is a VAE of SDXL"
    state = told(webui)
    assert expected in state["sentences"][0], "before anything is loaded"
    assert in_use(webui) == [TEXT], "the text encoder stays"
    assert loads(webui) == 1
    assert expected in webui.output()
    assert any(expected in note for note in webui.get("/modelsmith/v1/status")["loaded"]["notes"])
    assert "Modelsmith VAE: baked" in infotext(webui)
    assert sorted(option(webui)) == [WRONG, TEXT], "the user's choice is not rewritten"
    assert in_use(webui) == [TEXT]
    assert loads(webui) == 0, "the second job finds it loaded"
    report("wrong family refused", "sd15", WRONG, state["sentences"][0])


def test_the_same_choice_serves_the_model_that_it_fits(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.select("sdxl-eps")
    assert in_use(webui) == [WRONG]
    assert told(webui)["fit"] == "fits"
    webui.select("sd15")
    assert in_use(webui) == []


def test_a_shape_that_cannot_be_loaded_is_refused(webui: Webui) -> None:
    choose(webui, WIDE)
    assert in_use(webui) == []
    assert "by its shape" in told(webui)["refused"][0]["reason"]


@pytest.mark.parametrize("name", [FITTING, UNTOLD])
def test_a_choice_of_the_user_is_left_alone(webui: Webui, name: str) -> None:
    choose(webui, name)
    assert in_use(webui) == [name]
    assert (told(webui)["source"], told(webui)["refused"]) == ("setting", [])
    assert "Modelsmith VAE" not in infotext(webui)


def test_baked_vae_where_nothing_is_chosen(webui: Webui) -> None:
    assert in_use(webui) == []
    assert (told(webui)["source"], told(webui)["baked"]) == ("baked", "healthy")


@pytest.mark.parametrize(("name", "baked"), [("without", "missing"), ("broken", "damaged")])
def test_a_fitting_file_where_the_checkpoint_needs_one(
    webui: Webui, name: str, baked: str, report: Callable[..., None]
) -> None:
    webui.select(name)
    assert in_use(webui) == [FITTING]
    assert loads(webui) == 1
    state = told(webui)
    assert (state["source"], state["baked"], state["fit"]) == ("family", baked, "fits")
    assert f"Modelsmith VAE: {FITTING}" in infotext(webui)
    assert option(webui) == []
    assert in_use(webui) == [FITTING]
    assert loads(webui) == 0
    webui.select("sd15")
    assert in_use(webui) == [], "the next checkpoint does not inherit it"
    report("automatic choice", name, FITTING, " ".join(state["sentences"]))


def test_text_encoders_stay_beside_the_automatic_choice(webui: Webui) -> None:
    choose(webui, TEXT)
    webui.select("without")
    assert in_use(webui) == [TEXT, FITTING]


def test_the_preference_for_one_file(webui: Webui) -> None:
    webui.post("/modelsmith/v1/override", {"name": "sd15", "vae": f"{UNTOLD}.safetensors"})
    try:
        assert in_use(webui) == [UNTOLD]
        assert told(webui)["source"] == "preference"
    finally:
        webui.post("/modelsmith/v1/override", {"name": "sd15"})
    assert in_use(webui) == []


def test_the_users_word_wins_and_can_be_taken_back(webui: Webui) -> None:
    choose(webui, WRONG)
    name = f"{WRONG}.safetensors"
    for word, expected in (
        ({"allow": True}, [WRONG]),
        ({"allow": False}, []),
        ({"family": "sd"}, [WRONG]),
        ({"family": "auto"}, []),
    ):
        webui.post("/modelsmith/v1/vae", {"name": name, **word})
        assert in_use(webui) == expected
        assert loads(webui) == 1


def test_one_job_with_another_checkpoint(webui: Webui) -> None:
    """Forge applies a job's own settings after the scripts' first callback."""
    webui.txt2img(steps=1)
    webui.txt2img(steps=1, override_settings={"sd_model_checkpoint": "without.safetensors"})
    assert FITTING in re.findall(r"^Loading Model: (.+)$", webui.output(), re.MULTILINE)[-1]
    assert in_use(webui) == []


def test_switched_off_and_on(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.options(modelsmith_vae=False)
    assert in_use(webui) == [WRONG], "as Forge by itself"
    assert webui.get("/modelsmith/v1/vae")["enabled"] is False
    webui.options(modelsmith_vae=True)
    assert in_use(webui) == []


@pytest.mark.slow
def test_reload_of_the_page(webui: Webui) -> None:
    choose(webui, WRONG)
    assert in_use(webui) == []
    webui.reload_page()
    assert in_use(webui) == []
    assert loads(webui) == 0, "the same choice, so the model in memory is kept"
    assert told(webui)["refused"]


@pytest.mark.slow
def test_nothing_is_left_when_the_extension_is_gone(webui: Webui) -> None:
    choose(webui, WRONG)
    assert in_use(webui) == []
    webui.stop()
    saved = json.loads((webui.data / "config.json").read_text())
    assert [Path(name).stem for name in saved["forge_additional_modules"]] == [WRONG]
    shutil.rmtree(webui.extension)
    webui.start()
    assert in_use(webui) == [WRONG], "the user's choice, as Forge reads it"
    assert "Modelsmith" not in webui.output()
