"""In a running reForge or Classic: which VAE a checkpoint gets. What was loaded is read from the webui's infotext."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host.server import Webui
from host.vae_files import change_vae, write_vae_file

WEBUI = "ldm_forge"

WRONG, FITTING, UNTOLD, WIDE = "anime-xl", "photo-sd1", "untold", "sixteen"


def made(make_webui: Callable[..., Webui], checkpoint_folder: Path, name: str) -> Webui:
    """A webui with the VAEs of these tests, not started."""
    webui = make_webui(name, ["sd15", "sdxl-eps"])
    change_vae(checkpoint_folder / "sd15.safetensors", webui.checkpoints / "broken.safetensors", remove=False)
    folder = webui.data / "models" / "VAE"
    write_vae_file(folder / f"{WRONG}.safetensors", family="sdxl", seed=1)
    write_vae_file(folder / f"{FITTING}.safetensors", family="sd", seed=2)
    write_vae_file(folder / f"{UNTOLD}.safetensors", seed=3)
    write_vae_file(folder / f"{WIDE}.safetensors", channels=16, seed=4)
    return webui


@pytest.fixture(scope="module")
def started(make_webui: Callable[..., Webui], checkpoint_folder: Path) -> Iterator[Webui]:
    webui = made(make_webui, checkpoint_folder, "vae")
    webui.install_extension()
    webui.start()
    yield webui
    webui.stop()


@pytest.fixture
def webui(started: Webui) -> Webui:
    started.options(sd_vae="Automatic", modelsmith_vae=True)
    started.select("sd15")
    started.clear()
    return started


def choose(webui: Webui, name: str) -> None:
    webui.options(sd_vae=name if name in ("Automatic", "None") else f"{name}.safetensors")


def in_use(webui: Webui) -> str | None:
    """The VAE that the webui itself says a picture was made with; None for the one in the checkpoint."""
    webui.txt2img(steps=1)
    text = json.loads(webui.answer["info"])["infotexts"][0]
    found = re.search(r"VAE: ([^,]+)", text)
    return found.group(1).removesuffix(".safetensors") if found else None


def told(webui: Webui) -> dict[str, Any]:
    return webui.get("/modelsmith/v1/vae")["vae"]


def loads(webui: Webui) -> int:
    return sum(event["event"] == "model_loaded" for event in webui.events())


def test_wrong_family_is_refused_with_a_clear_word(webui: Webui, report: Callable[..., None]) -> None:
    choose(webui, WRONG)
    assert loads(webui) == 0, "nothing had to be loaded"
    state = told(webui)
    assert state["using"] is None
    expected = f"{WRONG}.safetensors is not used: it is a VAE of SDXL"
    assert expected in state["sentences"][0]
    assert expected in webui.output()
    assert any(expected in note for note in webui.get("/modelsmith/v1/status")["loaded"]["notes"])
    assert in_use(webui) is None
    assert webui.get("/sdapi/v1/options")["sd_vae"] == f"{WRONG}.safetensors", "the setting is not rewritten"
    report("wrong family refused", "sd15", WRONG, state["sentences"][0])


def test_the_same_setting_serves_the_model_that_it_fits(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.select("sdxl-eps")
    assert in_use(webui) == WRONG
    assert told(webui)["fit"] == "fits"
    webui.select("sd15")
    assert in_use(webui) is None
    assert told(webui)["refused"]


def test_a_shape_that_cannot_be_loaded_is_refused(webui: Webui) -> None:
    webui.select("sdxl-eps")
    choose(webui, WIDE)
    assert "by its shape" in told(webui)["refused"][0]["reason"]
    assert in_use(webui) is None


@pytest.mark.parametrize("name", [FITTING, UNTOLD])
def test_a_choice_of_the_user_is_left_alone(webui: Webui, name: str) -> None:
    choose(webui, name)
    assert loads(webui) == 1
    assert in_use(webui) == name
    assert (told(webui)["source"], told(webui)["refused"]) == ("setting", [])
    assert loads(webui) == 0


def test_baked_vae_where_nothing_is_chosen(webui: Webui) -> None:
    assert in_use(webui) is None
    state = told(webui)
    assert (state["source"], state["baked"], state["fit"]) == ("baked", "healthy", "fits")
    assert loads(webui) == 0


def test_a_fitting_file_where_the_baked_vae_is_damaged(webui: Webui, report: Callable[..., None]) -> None:
    webui.select("broken")
    assert loads(webui) == 1, "the checkpoint's own load, and none after it"
    assert in_use(webui) == FITTING
    state = told(webui)
    assert (state["source"], state["baked"], state["fit"]) == ("family", "damaged", "fits")
    assert webui.get("/sdapi/v1/options")["sd_vae"] == "Automatic"
    assert loads(webui) == 0
    report("automatic choice", "broken", FITTING, " ".join(state["sentences"]))


def test_none_means_none(webui: Webui) -> None:
    choose(webui, "None")
    webui.select("broken")
    assert (told(webui)["using"], told(webui)["source"]) == (None, "nothing")


def test_the_preference_for_one_file(webui: Webui) -> None:
    webui.post("/modelsmith/v1/override", {"name": "sd15", "vae": f"{UNTOLD}.safetensors"})
    try:
        assert in_use(webui) == UNTOLD
        assert told(webui)["source"] == "preference"
    finally:
        webui.post("/modelsmith/v1/override", {"name": "sd15"})
    assert in_use(webui) is None


def test_the_users_word_wins_and_can_be_taken_back(webui: Webui) -> None:
    choose(webui, WRONG)
    name = f"{WRONG}.safetensors"
    for word, expected in (
        ({"allow": True}, WRONG),
        ({"allow": False}, None),
        ({"family": "sd"}, WRONG),
        ({"family": "auto"}, None),
    ):
        webui.post("/modelsmith/v1/vae", {"name": name, **word})
        assert in_use(webui) == expected


def test_one_job_with_another_vae(webui: Webui) -> None:
    for name, expected in ((FITTING, FITTING), (WRONG, None)):
        webui.txt2img(steps=1, override_settings={"sd_vae": f"{name}.safetensors"})
        text = json.loads(webui.answer["info"])["infotexts"][0]
        assert (f"VAE: {name}" in text) == (expected is not None)
    assert in_use(webui) is None


def test_switched_off_and_on(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.options(modelsmith_vae=False)
    assert in_use(webui) == WRONG, "as the webui by itself"
    webui.options(modelsmith_vae=True)
    assert in_use(webui) is None


@pytest.mark.slow
def test_nothing_is_left_when_the_extension_is_gone(
    webui: Webui, make_webui: Callable[..., Webui], checkpoint_folder: Path
) -> None:
    """A webui that had the extension starts as one that never had it, with the same setting."""
    choose(webui, WRONG)
    webui.select("broken")
    webui.stop()
    shutil.rmtree(webui.extension)
    never = made(make_webui, checkpoint_folder, "never")
    never.configure(sd_vae=f"{WRONG}.safetensors", sd_model_checkpoint="broken.safetensors")
    never.start()
    in_use(never)  # the first picture may be described before its VAE is loaded
    first = in_use(never)
    never.options(sd_vae="None")
    never.options(sd_vae=f"{WRONG}.safetensors")
    second = in_use(never)
    never.stop()
    assert second == WRONG, "the user's setting, as the webui reads it"
    webui.start()
    in_use(webui)
    assert in_use(webui) == first
    choose(webui, "None")
    choose(webui, WRONG)
    assert in_use(webui) == second
    choose(webui, "Automatic")
    assert in_use(webui) is None
    assert "Modelsmith" not in webui.output()
