"""In a running webui: choices for one picture, what is recorded and pasted back, X/Y/Z axes, CFG rescale, advice."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from host.ldm_forge_expectations import skip_what_is_unknown
from host.server import Webui, WebuiError

PLAIN, ZTSNR = 14.6146, 4518.76
OWN_KEYS = ("Prediction:", "Prediction source:", "Modelsmith CFG rescale:", "Noise Schedule:")


@pytest.fixture(autouse=True)
def nothing_is_left(webui: Webui) -> Iterator[None]:
    """After each test a plain job is as it always was."""
    if webui.kind == "a1111":
        webui.options(sd_checkpoints_limit=3)
    yield
    webui.select("sdxl-eps")
    check(webui.txt2img(), "epsilon", PLAIN)
    assert not any(key in infotext(webui) for key in OWN_KEYS)
    assert webui.get("/sdapi/v1/options")["sd_noise_schedule"] == "Default"


def check(steps: list[dict[str, Any]], prediction: str, sigma: float) -> None:
    assert {step["prediction"] for step in steps} == {prediction}
    assert steps[0]["sigma"] == pytest.approx(sigma, rel=1e-5)


def chosen(*values: str) -> dict[str, Any]:
    return {"alwayson_scripts": {"Modelsmith": {"args": list(values)}}}


def infotext(webui: Webui) -> str:
    import json

    return str(json.loads(webui.answer["info"])["infotexts"][0])


def pixels(webui: Webui) -> bytes:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(webui.answer["images"][0]))).convert("RGB").tobytes()


# what is recorded


def test_a_v_model_is_recorded(webui: Webui, report: Callable[..., None]) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.txt2img()
    text = infotext(webui)
    assert "Prediction: v, Prediction source: marker tensor" in text
    assert "Noise Schedule: Zero Terminal SNR" in text
    webui.select("sdxl-v")
    webui.txt2img()
    text = infotext(webui)
    assert "Prediction: v," in text
    assert "Noise Schedule" not in text
    report("infotext", "sdxl-v-ztsnr", text.splitlines()[-1])


def test_a_choice_for_one_picture_is_recorded_and_ends_with_it(webui: Webui) -> None:
    webui.select("sdxl-eps")
    check(webui.txt2img(**chosen("v_prediction", "On")), "v_prediction", ZTSNR)
    text = infotext(webui)
    assert "Prediction: v, Prediction source: set for this picture" in text
    assert "Noise Schedule: Zero Terminal SNR" in text
    assert webui.get("/modelsmith/v1/status")["loaded"]["prediction"] == "epsilon"
    assert webui.state()["model"]["sigma_max"] == pytest.approx(PLAIN, rel=1e-5)


def test_a_choice_ends_with_a_job_that_fails(webui: Webui) -> None:
    webui.select("sdxl-eps")
    webui.fail_at(1)
    with pytest.raises(WebuiError, match="a test asked for this failure"):
        webui.txt2img(**chosen("v_prediction", "On"))
    check(webui.txt2img(), "epsilon", PLAIN)


def test_a_choice_holds_for_all_batches_and_in_img2img(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    steps = webui.txt2img(n_iter=2, **chosen("v_prediction", "Off"))
    assert [step["sigma"] for step in steps[::2]] == pytest.approx([PLAIN, PLAIN], rel=1e-5)
    text = infotext(webui)
    assert "Noise Schedule" not in text
    picture = webui.answer["images"][0]
    steps = webui.img2img(init_images=[picture], denoising_strength=1.0, **chosen("epsilon", "Off"))
    check(steps, "epsilon", PLAIN)
    assert "Prediction: epsilon, Prediction source: set for this picture" in infotext(webui)


def test_a_choice_goes_before_the_one_for_the_file(webui: Webui) -> None:
    name = "sdxl-v-ztsnr.safetensors"
    webui.select("sdxl-v-ztsnr")
    try:
        webui.post("/modelsmith/v1/override", {"name": name, "ztsnr": "off"})
        check(webui.txt2img(), "v_prediction", PLAIN)
        check(webui.txt2img(**chosen("Automatic", "On")), "v_prediction", ZTSNR)
        check(webui.txt2img(), "v_prediction", PLAIN)
    finally:
        webui.post("/modelsmith/v1/override", {"name": name})
        (webui.checkpoints / "sdxl-v-ztsnr.json").unlink(missing_ok=True)


# pasting


def paste(webui: Webui, text: str, **fields: Any) -> list[dict[str, Any]]:
    """The text alone decides. Forge's API cannot read texts: it ends in an error of its own."""
    if webui.kind == "forge":
        pytest.skip("Forge's API fails on every infotext: isinstance() with a parameterized generic")
    webui.clear()
    webui.answer = webui.post("/sdapi/v1/txt2img", {"infotext": text, **fields})
    return [event for event in webui.events() if event["event"] == "step"]


def test_a_pasted_text_makes_the_same_picture(webui: Webui) -> None:
    webui.select("sdxl-eps")
    webui.txt2img(**chosen("v_prediction", "On", "0.5"), cfg_scale=6)
    text, picture = infotext(webui), pixels(webui)
    assert "Modelsmith CFG rescale: 0.5" in text
    webui.txt2img()
    check(paste(webui, text), "v_prediction", ZTSNR)
    assert infotext(webui) == text
    assert pixels(webui) == picture
    # Neither the choice nor a setting goes on to the next picture.
    check(webui.txt2img(), "epsilon", PLAIN)


def test_a_pasted_text_of_a_v_model_asks_nothing_of_the_next_model(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.txt2img()
    text = infotext(webui)
    check(paste(webui, text), "v_prediction", ZTSNR)
    assert infotext(webui) == text
    webui.select("sdxl-eps")
    check(paste(webui, re.sub(r", Model hash: \w+|, Model: [\w-]+", "", text)), "v_prediction", ZTSNR)


def test_a_text_of_another_install_with_the_noise_schedule(webui: Webui) -> None:
    webui.select("sdxl-v")
    text = "a cat\nSteps: 2, Sampler: Euler, CFG scale: 5, Seed: 1, Size: 64x64, Noise Schedule: Zero Terminal SNR"
    check(paste(webui, text), "v_prediction", ZTSNR)
    assert webui.get("/sdapi/v1/options")["sd_noise_schedule"] == "Default"
    check(webui.txt2img(), "v_prediction", PLAIN)


# X/Y/Z plot


def plot(webui: Webui, axis: str, values: str, **fields: Any) -> list[list[dict[str, Any]]]:
    """Steps of each cell of a row."""
    info = webui.get("/sdapi/v1/script-info")
    script = next(one for one in info if one["name"] == "x/y/z plot" and not one["is_img2img"])
    labels = script["args"][0]["choices"]
    assert labels.count(axis) == 1
    x = [labels.index(axis), values, values.split(",")]
    # The webuis differ in what they ask besides; the labels are the same in all.
    wanted = {"Draw legend": False, "Include Sub Images": True, "Include Sub Grids": False}
    wanted |= {"Keep -1 for seeds": True, "Use text inputs instead of dropdowns": True}
    rest = [wanted.get(str(arg["label"]), arg["value"]) for arg in script["args"][9:]]
    arguments = [*x, 0, "", [], 0, "", [], *rest]
    try:
        steps = webui.txt2img(script_name="x/y/z plot", script_args=arguments, **fields)
    except WebuiError as error:
        if "uni_pc_order" not in error.text:
            raise
        pytest.skip("every plot fails in this Classic: it reads an option that is gone")
    count = len(values.split(","))
    each, rest = divmod(len(steps), count)
    assert rest == 0
    return [steps[index * each : (index + 1) * each] for index in range(count)]


def texts(webui: Webui) -> list[str]:
    import json

    return [str(text) for text in json.loads(webui.answer["info"])["infotexts"]]


def test_axis_of_the_prediction(webui: Webui, report: Callable[..., None]) -> None:
    webui.select("sdxl-eps")
    cells = plot(webui, "[Modelsmith] Prediction", "Automatic,v_prediction,epsilon,Automatic")
    found = [cell[0]["prediction"] for cell in cells]
    report("X/Y/Z", "sdxl-eps", *found)
    assert found == ["epsilon", "v_prediction", "epsilon", "epsilon"]
    recorded = ["Prediction: v" in text for text in texts(webui)[1:]]
    assert recorded == [False, True, False, False]


def test_axis_of_ztsnr(webui: Webui) -> None:
    webui.select("sdxl-v")
    cells = plot(webui, "[Modelsmith] ZTSNR", "Off,On,Automatic")
    assert [cell[0]["sigma"] for cell in cells] == pytest.approx([PLAIN, ZTSNR, PLAIN], rel=1e-5)
    assert ["Noise Schedule" in text for text in texts(webui)[1:]] == [False, True, False]


@pytest.mark.usefixtures("prompt_matters")
def test_axis_of_cfg_rescale(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    cells = plot(webui, "[Modelsmith] CFG rescale", "0,0.7,0", steps=3, cfg_scale=7, scheduler="SGM Uniform")
    assert [len(cell) for cell in cells] == [3, 3, 3]
    shares = [step["phi"] for step in guided(webui)]
    assert shares == pytest.approx([0.0] * 3 + [0.7] * 3 + [0.0] * 3, abs=2e-3)
    recorded = [re.findall(r"Modelsmith CFG rescale: ([\d.]+)", text) for text in texts(webui)[1:]]
    assert recorded == [[], ["0.7"], []]


def test_axis_of_the_vae(webui: Webui, report: Callable[..., None]) -> None:
    from host.checkpoints import write_vae

    path = write_vae(webui.data / "models" / "VAE", "axis-vae")
    if webui.kind == "forge":
        webui.press(elem_id="forge_refresh_checkpoint")
    else:
        webui.post("/sdapi/v1/refresh-vae", {})
    webui.select("sd15")
    try:
        webui.txt2img()
        own = pixels(webui)
        plot(webui, "[Modelsmith] VAE", "Automatic,axis-vae.safetensors,In the checkpoint")
        used = []
        for text in texts(webui)[1:]:
            found = re.search(r"(?:Module 1|Modelsmith VAE|VAE): ([\w.-]+)", text)
            used.append(found[1] if found else "")
        report("X/Y/Z", "VAE", *used)
        assert "axis-vae" in used[1]
        assert "axis-vae" not in used[0] + used[2]
        webui.txt2img()
        assert pixels(webui) == own, "what was chosen for the plot ends with it"
        assert webui.get("/sdapi/v1/options")["sd_vae"] == "Automatic"
    finally:
        path.unlink()


# CFG rescale

# Enough of a pattern in the prompt for guidance to matter; see the probe's guidance.py.
PROMPT = 3.0


@pytest.fixture
def prompt_matters(webui: Webui) -> Iterator[None]:
    webui.post(f"/modelsmith-probe/v1/prompt?strength={PROMPT}", {})
    yield
    webui.post("/modelsmith-probe/v1/prompt?strength=0", {})


def guided(webui: Webui) -> list[dict[str, float]]:
    """What the probe measured of guidance in each step of the last job."""
    return [event for event in webui.events() if event["event"] == "guidance"]


def far_apart(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


@pytest.mark.usefixtures("prompt_matters")
@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("sdxl-v-ztsnr", "Euler"),
        ("sdxl-v-ztsnr", "DDIM"),
        ("sdxl-v-ztsnr", "UniPC"),
        ("sdxl-eps", "DPM++ 2M"),
        ("sdxl-v", "PLMS"),
        ("sd21-768v", "DDIM"),
        ("sd15", "Euler a"),
    ],
)
def test_cfg_rescale_is_what_the_paper_says_and_leaves_nothing_behind(
    webui: Webui, name: str, sampler: str, report: Callable[..., None]
) -> None:
    skip_what_is_unknown(webui, name)
    webui.select(name)
    fields = {"sampler_name": sampler, "scheduler": "SGM Uniform", "steps": 4, "cfg_scale": 7}
    pictures = []
    # An epsilon model's velocity is worked out as a small difference of large numbers that are in single precision.
    exact, rest = (2e-3, 0.01) if name.startswith(("sdxl-v", "sd21")) else (2e-2, 0.1)
    for phi in (0.0, 0.7, 0.0):
        webui.txt2img(**fields, **chosen("Automatic", "Automatic", f"{phi:g}"))
        pictures.append(pixels(webui))
        measured = guided(webui)
        assert len(measured) >= 3
        assert max(step["guidance"] for step in measured) > 0.01, "the prompt must matter"
        for step in measured:
            assert step["phi"] == pytest.approx(phi, abs=exact)
            assert step["left"] < rest, "nothing but the paper's rescale"
        assert ("Modelsmith CFG rescale: 0.7" in infotext(webui)) == (phi > 0)
        shares = sorted(step["phi"] for step in measured)
        report("CFG rescale", name, sampler, f"{phi:g}", f"{shares[0]:.4f} to {shares[-1]:.4f}")
    assert pictures[0] == pictures[2]
    difference = far_apart(pictures[0], pictures[1])
    report("CFG rescale", name, sampler, "pictures differ by", f"{difference:.2f}")
    assert difference > 0


LATENT_MODIFIER = [True, 0, "anisotropic", 0, "reinhard", 100, 0, "subtract", 0, 0.5, "gaussian", "add", 0, 100, 127]
LATENT_MODIFIER += [0, "hard_clamp", 5, 0, "None", "None"]
REFORGES = "RescaleCFG for reForge"
NEOS = "RescaleCFG"


@pytest.mark.usefixtures("prompt_matters")
def test_cfg_rescale_stays_away_where_another_one_is_on(webui: Webui) -> None:
    """Forge, Neo and reForge bring one; in AUTOMATIC1111 an extension replaces the webui's own guidance."""
    webui.select("sdxl-v-ztsnr")
    fields: dict[str, Any] = {"scheduler": "SGM Uniform", "steps": 4, "cfg_scale": 7}
    scripts: dict[str, Any] = {}
    if webui.flavour == "neo":
        scripts[NEOS] = {"args": [0.5]}
    elif webui.kind == "forge":
        scripts["LatentModifier Integrated"] = {"args": LATENT_MODIFIER}
    elif REFORGES.lower() in webui.get("/sdapi/v1/scripts")["txt2img"]:
        scripts[REFORGES] = {"args": [True, "Normal", 0.5]}
    elif webui.flavour == "ldm_forge":
        pytest.skip("this Classic has no other CFG rescale")
    else:
        webui.post("/modelsmith-probe/v1/foreign-rescale?phi=0.5", {})
    pictures, shares = [], []
    try:
        for phi in ("0", "0.7"):
            own = chosen("Automatic", "Automatic", phi)["alwayson_scripts"]
            webui.txt2img(**fields, alwayson_scripts={**own, **scripts})
            pictures.append(pixels(webui))
            shares.append([step["phi"] for step in guided(webui)])
            assert "Modelsmith CFG rescale" not in infotext(webui)
    finally:
        if not scripts:
            webui.post("/modelsmith-probe/v1/foreign-rescale?phi=0", {})
    assert pictures[0] == pictures[1]
    assert shares[0] == shares[1]
    webui.txt2img(**fields, **chosen("Automatic", "Automatic", "0.7"))
    assert pixels(webui) != pictures[0]
    assert [step["phi"] for step in guided(webui)] == pytest.approx([0.7] * 4, abs=2e-3)


@pytest.mark.usefixtures("prompt_matters")
def test_cfg_rescale_stays_away_where_an_axis_of_neo_chose_its_own(webui: Webui) -> None:
    if webui.flavour != "neo":
        pytest.skip("an axis of Neo")
    webui.select("sdxl-v-ztsnr")
    fields: dict[str, Any] = {"scheduler": "SGM Uniform", "steps": 4, "cfg_scale": 7}
    plot(webui, "Rescale CFG", "0,0.5", **fields, **chosen("Automatic", "Automatic", "0.7"))
    assert [step["phi"] for step in guided(webui)] == pytest.approx([0.7] * 4 + [0.5] * 4, abs=2e-3)
    first, second = texts(webui)[1:]
    assert "Modelsmith CFG rescale: 0.7" in first
    assert "Modelsmith CFG rescale" not in second


def test_cfg_rescale_of_a_file_and_of_the_setting(webui: Webui) -> None:
    name = "sdxl-v-ztsnr.safetensors"
    webui.options(modelsmith_cfg_rescale=0.3)
    try:
        webui.select("sdxl-v-ztsnr")
        webui.txt2img()
        assert "Modelsmith CFG rescale: 0.3" in infotext(webui)
        webui.post("/modelsmith/v1/override", {"name": name, "cfg_rescale": 0.6})
        webui.txt2img()
        assert "Modelsmith CFG rescale: 0.6" in infotext(webui)
        webui.txt2img(**chosen("Automatic", "Automatic", "Off"))
        assert "Modelsmith CFG rescale" not in infotext(webui)
        webui.select("sdxl-v")
        webui.txt2img()
        assert "Modelsmith CFG rescale" not in infotext(webui), "the setting is for ZTSNR models"
    finally:
        webui.options(modelsmith_cfg_rescale=0)
        webui.post("/modelsmith/v1/override", {"name": name})
        (webui.checkpoints / "sdxl-v-ztsnr.json").unlink(missing_ok=True)


@pytest.mark.usefixtures("prompt_matters")
def test_cfg_rescale_in_the_hires_pass(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    # Neo has no latent upscaler.
    upscaler = "None" if webui.flavour == "neo" else "Latent"
    fields: dict[str, Any] = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": upscaler, "denoising_strength": 1.0}
    if webui.kind == "forge":
        # Forge's API has no default for it.
        fields["hr_additional_modules"] = ["Use same choices"]
    # Classic's own name for it, which has no default there.
    fields |= {"cfg_scale": 7, "hr_cfg": 7, "hr_cfg_scale": 7, "scheduler": "SGM Uniform"}
    for phi in ("0", "0.7"):
        assert len(webui.txt2img(**fields, **chosen("Automatic", "Automatic", phi))) == 4
        assert [step["phi"] for step in guided(webui)] == pytest.approx([float(phi)] * 4, abs=2e-3)
        assert ("Modelsmith CFG rescale: 0.7" in infotext(webui)) == (phi == "0.7")


# advice


def test_advice_on_the_resolved_scheduler(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.txt2img(sampler_name="DPM++ 2M", scheduler="Automatic", cfg_scale=5)
    advice = webui.get("/modelsmith/v1/status")["advice"]
    assert advice["level"] == "bad"
    assert advice["text"].startswith("Karras spends")
    webui.txt2img(sampler_name="Euler", scheduler="SGM Uniform", cfg_scale=5)
    assert webui.get("/modelsmith/v1/status")["advice"]["level"] == "fine"
    webui.select("sdxl-eps")
    webui.txt2img(sampler_name="DPM++ 2M", scheduler="Automatic")
    assert webui.get("/modelsmith/v1/status")["advice"] is None
