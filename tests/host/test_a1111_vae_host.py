"""In a running AUTOMATIC1111: which VAE a checkpoint gets. What was loaded is read from the webui's own infotext."""

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

WEBUI = "a1111"

WRONG, FITTING, UNTOLD, WIDE = "anime-xl", "photo-sd1", "untold", "sixteen"
# A plain change of the VAE announces the model once.
ONE_CHANGE = 1


@pytest.fixture(scope="module")
def started(make_webui: Callable[..., Webui], checkpoint_folder: Path) -> Iterator[Webui]:
    webui = make_webui("vae", ["sd15", "sdxl-eps"])
    change_vae(checkpoint_folder / "sd15.safetensors", webui.checkpoints / "broken.safetensors", remove=False)
    folder = webui.data / "models" / "VAE"
    write_vae_file(folder / f"{WRONG}.safetensors", family="sdxl", seed=1)
    write_vae_file(folder / f"{FITTING}.safetensors", family="sd", seed=2)
    write_vae_file(folder / f"{UNTOLD}.safetensors", seed=3)
    write_vae_file(folder / f"{WIDE}.safetensors", channels=16, seed=4)
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


def chosen(webui: Webui) -> str:
    return webui.get("/sdapi/v1/options")["sd_vae"]


def test_wrong_family_is_refused_with_a_clear_word(webui: Webui, report: Callable[..., None]) -> None:
    choose(webui, WRONG)
    assert loads(webui) == 0, "nothing had to be loaded"
    state = told(webui)
    assert state["refused"][0]["name"] == f"{WRONG}.safetensors"
    assert state["using"] is None
    expected = f"{WRONG}.safetensors is not used: it is a VAE of SDXL"
    assert expected in state["sentences"][0]
    assert expected in webui.output()
    assert any(expected in note for note in webui.get("/modelsmith/v1/status")["loaded"]["notes"])
    assert in_use(webui) is None
    assert chosen(webui) == f"{WRONG}.safetensors", "the user's setting is not rewritten"
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
    state = told(webui)
    assert "by its shape" in state["refused"][0]["reason"]
    assert in_use(webui) is None
    assert "size mismatch" not in webui.output()


@pytest.mark.parametrize("name", [FITTING, UNTOLD])
def test_a_choice_of_the_user_is_left_alone(webui: Webui, name: str) -> None:
    choose(webui, name)
    assert loads(webui) == ONE_CHANGE
    assert in_use(webui) == name
    state = told(webui)
    assert (state["source"], state["refused"]) == ("setting", [])
    assert state["fit"] == ("fits" if name == FITTING else "unsure")


def test_baked_vae_where_nothing_is_chosen(webui: Webui) -> None:
    assert in_use(webui) is None
    state = told(webui)
    assert (state["source"], state["baked"], state["fit"]) == ("baked", "healthy", "fits")
    assert loads(webui) == 0


def test_a_fitting_file_where_the_baked_vae_is_damaged(webui: Webui, report: Callable[..., None]) -> None:
    webui.select("broken")
    assert loads(webui) == ONE_CHANGE, "the checkpoint's own load, and none after it"
    assert in_use(webui) == FITTING
    state = told(webui)
    assert (state["source"], state["baked"], state["fit"]) == ("family", "damaged", "fits")
    assert chosen(webui) == "Automatic"
    assert loads(webui) == 0
    report("automatic choice", "broken", FITTING, " ".join(state["sentences"]))


def test_none_means_none(webui: Webui) -> None:
    choose(webui, "None")
    webui.select("broken")
    assert told(webui)["using"] is None
    assert told(webui)["source"] == "nothing"


def test_the_webuis_own_metadata_goes_first(webui: Webui) -> None:
    beside = webui.checkpoints / "broken.json"
    beside.write_text(json.dumps({"vae": f"{WRONG}.safetensors"}))
    try:
        webui.select("broken")
        assert in_use(webui) == WRONG
        assert told(webui)["source"] == "file"
        assert told(webui)["fit"] == "does_not_fit", "it is said, but it is the user's word for this very file"
    finally:
        beside.unlink()
        webui.select("sd15")


def test_a_file_beside_the_checkpoint_goes_before_ours(webui: Webui) -> None:
    beside = webui.data / "models" / "VAE" / "broken-own.safetensors"
    write_vae_file(beside, seed=5)
    webui.post("/sdapi/v1/refresh-vae", {})
    try:
        webui.select("broken")
        assert in_use(webui) == "broken-own"
        assert told(webui)["source"] == "beside"
    finally:
        webui.select("sd15")
        beside.unlink()
        webui.post("/sdapi/v1/refresh-vae", {})


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
    assert webui.post("/modelsmith/v1/vae", {"name": name, "allow": True})["vae"]["using"] == name
    assert in_use(webui) == WRONG
    assert webui.post("/modelsmith/v1/vae", {"name": name, "allow": False})["vae"]["using"] is None
    assert webui.post("/modelsmith/v1/vae", {"name": name, "family": "sd"})["vae"]["using"] == name
    assert told(webui)["fit"] == "fits"
    assert webui.post("/modelsmith/v1/vae", {"name": name, "family": "auto"})["vae"]["using"] is None
    assert in_use(webui) is None


def test_one_job_with_another_vae(webui: Webui) -> None:
    for name, expected in ((FITTING, FITTING), (WRONG, None)):
        webui.txt2img(steps=1, override_settings={"sd_vae": f"{name}.safetensors"})
        text = json.loads(webui.answer["info"])["infotexts"][0]
        assert (f"VAE: {name}" in text) == (expected is not None)
    assert in_use(webui) is None


def test_two_checkpoints_kept_in_memory(webui: Webui) -> None:
    webui.options(sd_checkpoints_limit=2)
    try:
        choose(webui, WRONG)
        for _ in range(2):
            webui.select("sdxl-eps")
            assert in_use(webui) == WRONG
            webui.select("sd15")
            assert in_use(webui) is None
    finally:
        webui.options(sd_checkpoints_limit=1)


def test_switched_off_and_on(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.options(modelsmith_vae=False)
    assert in_use(webui) == WRONG, "as the webui by itself"
    webui.options(modelsmith_vae=True)
    assert in_use(webui) is None


@pytest.mark.slow
def test_quicksetting_is_added_once_and_stays_away_when_removed(webui: Webui) -> None:
    def shown() -> bool:
        ids = [part["props"].get("elem_id") for part in webui.get("/config")["components"]]
        return "setting_sd_vae" in ids[: ids.index("tabs")]

    assert webui.get("/sdapi/v1/options")["quicksettings_list"] == ["sd_model_checkpoint", "sd_vae"]
    assert shown()
    choose(webui, WRONG)
    webui.reload_page()
    assert webui.state()["functions"]["resolve_vae"] == ["modelsmith_webui.hosts.a1111", "modules.sd_vae"]
    assert told(webui)["refused"], "a reload of the page keeps the choice"
    webui.options(quicksettings_list=["sd_model_checkpoint"])
    webui.reload_page()
    assert webui.get("/sdapi/v1/options")["quicksettings_list"] == ["sd_model_checkpoint"]
    assert not shown()


@pytest.mark.slow
def test_nothing_is_left_when_the_extension_is_gone(webui: Webui) -> None:
    choose(webui, WRONG)
    webui.select("broken")
    webui.stop()
    shutil.rmtree(webui.extension)
    webui.start()
    assert webui.state()["functions"]["resolve_vae"] == ["modules.sd_vae"]
    assert in_use(webui) == WRONG, "the user's setting, as the webui reads it"
    choose(webui, "Automatic")
    webui.select("sd15")
    assert in_use(webui) is None
    assert "Modelsmith" not in webui.output()
