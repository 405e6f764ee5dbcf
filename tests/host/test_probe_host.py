"""In a running webui: the prediction probe asks the real network, and says of known ones what they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host.ldm_forge_expectations import builds_sd2
from host.server import Webui, WebuiError


@pytest.fixture(autouse=True)
def nothing_is_left(webui: Webui) -> Iterator[None]:
    yield
    webui.post("/modelsmith-probe/v1/ideal?kind=none", {})
    webui.options(modelsmith_probe=False)
    webui.select("sd15")


def loaded(webui: Webui, name: str, network: str = "none") -> None:
    """Bring a checkpoint into memory, and give it a network whose answers are known."""
    webui.select(name)
    webui.txt2img()
    webui.post(f"/modelsmith-probe/v1/ideal?kind={network}", {})


def ask(webui: Webui, **body: str) -> dict[str, Any]:
    return webui.post("/modelsmith/v1/probe", body)


@pytest.mark.parametrize(
    ("name", "network", "gain", "response", "agrees", "ztsnr"),
    [
        ("sdxl-eps", "epsilon", 1.0, 0.17, True, None),
        ("sdxl-eps", "v", 0.0, -12.1, False, False),
        ("sdxl-v", "v", 0.0, -12.1, True, False),
        ("sdxl-v-ztsnr", "v_ztsnr", 0.0, 0.0, True, True),
        ("sdxl-v-ztsnr", "epsilon", 1.0, 0.17, False, None),
        ("sdxl-v", "mixed", 0.5, None, False, None),
        ("sd15", "epsilon", 1.0, 0.17, True, None),
        ("sd21-768v", "v", 0.0, -12.1, True, False),
    ],
)
def test_known_networks(
    webui: Webui,
    name: str,
    network: str,
    gain: float,
    response: float | None,
    agrees: bool,
    ztsnr: bool | None,
    report: Callable[..., None],
) -> None:
    if name.startswith("sd2") and not builds_sd2(webui):
        pytest.skip("this webui builds no SD2 models")
    loaded(webui, name, network)
    found = ask(webui, name=name)
    report("probe", name, network, *(f"{found[key]:.3f}" for key in ("gain", "correlation", "offset_response")))
    assert found["gain"] == pytest.approx(gain, abs=0.08)
    if response is not None:
        assert found["offset_response"] == pytest.approx(response, abs=0.15)
    assert found["agrees"] is agrees
    assert found["zero_terminal_snr"] is ztsnr
    # A hint: nothing was set by it.
    state = webui.get("/modelsmith/v1/status")
    assert state["probe"]["gain"] == found["gain"]
    assert state["loaded"]["prediction"] == ("epsilon" if name in ("sdxl-eps", "sd15") else "v_prediction")


def test_what_is_missing_of_ztsnr_is_said(webui: Webui) -> None:
    loaded(webui, "sdxl-v", "v_ztsnr")
    assert "zero terminal SNR does, which is off" in ask(webui)["text"]
    loaded(webui, "sdxl-v-ztsnr", "v")
    assert "without zero terminal SNR does, which is on" in ask(webui)["text"]


def test_the_real_network_is_asked_and_pictures_stay_the_same(webui: Webui) -> None:
    loaded(webui, "sdxl-v-ztsnr")
    webui.txt2img()
    before = webui.answer["images"]
    found = ask(webui)
    assert abs(found["gain"]) < 1
    assert ask(webui) == found
    webui.txt2img()
    assert webui.answer["images"] == before


def test_another_file_than_the_one_in_memory_is_refused(webui: Webui) -> None:
    loaded(webui, "sd15")
    with pytest.raises(WebuiError, match="not the model in memory") as refused:
        ask(webui, name="sdxl-v")
    assert refused.value.code == 409
    with pytest.raises(WebuiError) as refused:
        ask(webui, name="sdxl-x")
    assert refused.value.code == 404


def test_a_file_in_doubt_is_asked_once_where_the_setting_says_so(webui: Webui) -> None:
    webui.options(modelsmith_probe=True)
    loaded(webui, "sdxl-v-ztsnr")
    webui.txt2img()
    (webui.checkpoints / "sd15-doubt.safetensors").write_bytes((webui.checkpoints / "sd15-b.safetensors").read_bytes())
    webui.refresh()
    try:
        webui.select("sd15-doubt")
        webui.txt2img()
        asked = webui.output().count("sd15-doubt.safetensors: probe:")
        found = webui.get("/modelsmith/v1/status")["probe"]
        assert found["file"] == "sd15-doubt.safetensors"
        webui.txt2img()
        assert webui.output().count("sd15-doubt.safetensors: probe:") == asked
        assert webui.get("/modelsmith/v1/status")["probe"] == found
    finally:
        webui.select("sd15")
        (webui.checkpoints / "sd15-doubt.safetensors").unlink()
        webui.refresh()


def _through(path: Path) -> None:
    """Make the network of an SDXL checkpoint give its input back, as an epsilon network does at the last timestep.

    The first convolution keeps x and -x, the last block's skip connection carries them to the end, and SiLU(y) -
    SiLU(-y) = y undoes the activation before the last convolution.
    """
    import numpy as np

    data = bytearray(path.read_bytes())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    unet = "model.diffusion_model."

    def change(name: str, change_values: Callable[[Any], None]) -> None:
        entry = header[unet + name]
        start, end = (begin + offset for offset in entry["data_offsets"])
        values = np.frombuffer(bytes(data[start:end]), np.float16).reshape(entry["shape"]).copy()
        change_values(values)
        data[start:end] = values.tobytes()

    def first(weight: Any) -> None:
        weight[:8] = 0
        for channel in range(4):
            weight[channel, channel, 1, 1], weight[channel + 4, channel, 1, 1] = 1, -1

    def skip(weight: Any) -> None:
        into = weight.shape[1] - weight.shape[0]
        weight[:8] = 0
        for channel in range(8):
            weight[channel, into + channel] = 1

    def nothing(weight: Any) -> None:
        weight[:8] = 0

    def last(weight: Any) -> None:
        weight[:] = 0
        for channel in range(4):
            weight[channel, channel, 1, 1], weight[channel, channel + 4, 1, 1] = 1, -1

    change("input_blocks.0.0.weight", first)
    change("output_blocks.8.0.skip_connection.weight", skip)
    change("output_blocks.8.0.out_layers.3.weight", nothing)
    change("out.2.weight", last)
    path.write_bytes(data)


@pytest.mark.parametrize(("share", "behaves_as"), [(0.0, "epsilon"), (0.5, "mixed"), (1.0, "v_prediction")])
def test_a_merge_is_told_by_how_it_answers(webui: Webui, share: float, behaves_as: str, report: Any) -> None:
    """Merged by the extension itself in the running webui, from one network of each kind."""
    from host.checkpoints import SDXL, Recipe, write

    layers = 3 if webui.kind == "ldm_forge" else 2  # reForge wants one before the last but one, which is read
    written = [write(webui.checkpoints, Recipe("like-epsilon", SDXL, seed=5, text_layers=layers))]
    _through(written[0])
    written.append(write(webui.checkpoints, Recipe("like-v", SDXL, markers=("v_pred",), seed=5, text_layers=layers)))
    out = webui.checkpoints / "merged.safetensors"
    webui.refresh()
    try:
        merge(written, out, share)
        webui.refresh()
        webui.options(modelsmith_probe=True)
        webui.select("merged")
        webui.txt2img()
        found = webui.get("/modelsmith/v1/status")["probe"]
        report("probe", f"merge of epsilon and v, {share:g}", *(f"{found[key]:.3f}" for key in ("gain", "correlation")))
        assert found["behaves_as"] == behaves_as
        # Of nothing but B, the merge knows that the result is of B's type.
        assert found["agrees"] is (behaves_as != "mixed")
        assert ("mix of epsilon and v-prediction" in found["text"]) is (behaves_as == "mixed")
    finally:
        webui.select("sd15")
        for path in (*written, out):
            path.unlink(missing_ok=True)
        webui.refresh()


def merge(models: list[Path], out: Path, share: float) -> None:
    """A weighted sum that claims to be an epsilon model where both kinds are in it."""
    from modelsmith.merge.engine import run_merge
    from modelsmith.merge.plan import plan_merge
    from modelsmith.merge.request import MergeRequest

    request = MergeRequest(
        models=tuple(models),
        method="weighted_sum",
        parameters={"alpha": share},
        output=out,
        allow_prediction_mix="epsilon",
    )
    run_merge(plan_merge(request))
