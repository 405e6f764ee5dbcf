"""The AUTOMATIC1111 adapter against a stand-in with the webui's own names and arithmetic.

What the stand-in does is watched in the real webui by tests/host.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from modelsmith.decision import ConfigKey, Decision  # noqa: E402
from modelsmith_webui.hosts import a1111  # noqa: E402

PLAIN, ZTSNR, ZTSNR_998 = 14.6146, 4518.76, 2254.24
SDXL_YAML = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    denoiser_config:
      params:
        weighting_config: {target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting}
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling}
"""
SD1_YAML = "model: {target: ldm.models.diffusion.ddpm.LatentDiffusion, params: {linear_start: 0.00085}}"


def plain_schedule() -> Any:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def rescale(alphas_cumprod: Any) -> Any:
    """The webui's rescale_zero_terminal_snr_abar."""
    signal = alphas_cumprod.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    result = ((signal - last) * (first / (first - last))) ** 2
    result[-1] = 4.8973451890853435e-08
    return result


def sigma(model: Any, index: int = -1) -> float:
    value = float(model.alphas_cumprod.double()[index])
    return ((1 - value) / value) ** 0.5


class Patches(ModuleType):
    """modules.patches: refuses a second patch under one key, as the webui's does."""

    def __init__(self) -> None:
        super().__init__("modules.patches")
        self.originals: dict[Any, Any] = {}

    def patch(self, key: str, obj: Any, field: str, replacement: Any) -> Any:
        if (key, obj, field) in self.originals:
            raise RuntimeError("patch is already applied")
        self.originals[key, obj, field] = getattr(obj, field)
        setattr(obj, field, replacement)

    def undo(self, key: str, obj: Any, field: str) -> None:
        setattr(obj, field, self.originals.pop((key, obj, field)))


class Webui:
    """The webui's modules, one folder with its configs, and what each file is decided to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = {}
        for name, text in (("sd_xl_base", SDXL_YAML), ("v1-inference", SD1_YAML), ("v2", SD1_YAML), ("v2-v", SD1_YAML)):
            path = folder / f"{name}.yaml"
            path.write_text(text)
            self.configs[name] = str(path)
        self.opts = SimpleNamespace(sd_noise_schedule="Default", use_downcasted_alpha_bar=False)
        self.shared = SimpleNamespace(opts=self.opts, device="cpu", state=SimpleNamespace(job=""))
        self.stock = self.configs["sd_xl_base"]
        self.asked = 0
        self.sd_models = ModuleType("modules.sd_models")
        self.sd_models.model_data = SimpleNamespace(sd_model=None, loaded_sd_models=[])
        self.sd_models.apply_alpha_schedule_override = self.apply_alpha_schedule_override
        self.sd_models_config = ModuleType("modules.sd_models_config")
        self.sd_models_config.config_sd2 = self.configs["v2"]
        self.sd_models_config.config_sd2v = self.configs["v2-v"]
        self.sd_models_config.find_checkpoint_config = self.find_checkpoint_config
        self.sd_models_config.find_checkpoint_config_near_filename = self.near
        self.patches = Patches()

    def near(self, info: Any) -> str | None:
        path = Path(info.filename).with_suffix(".yaml")
        return str(path) if path.exists() else None

    def find_checkpoint_config(self, _state_dict: Any, _info: Any) -> str:
        self.asked += 1
        return self.stock

    def apply_alpha_schedule_override(self, model: Any, p: Any = None) -> None:
        model.alphas_cumprod = model.alphas_cumprod_original.to("cpu")
        if self.opts.use_downcasted_alpha_bar:
            if p is not None:
                p.extra_generation_params["Downcast alphas_cumprod"] = True
            model.alphas_cumprod = model.alphas_cumprod.half()
        if self.opts.sd_noise_schedule == "Zero Terminal SNR":
            model.alphas_cumprod = rescale(model.alphas_cumprod)

    def load(self, name: str, *, is_sdxl: bool = True) -> Any:
        """A model object built anew from the config that the adapter answers with."""
        info = SimpleNamespace(filename=str(self.folder / name))
        config = self.sd_models_config.find_checkpoint_config({}, info)
        table = plain_schedule()
        model = SimpleNamespace(is_sdxl=is_sdxl, used_config=config, sd_checkpoint_info=info, parameterization="eps")
        model.alphas_cumprod = model.alphas_cumprod_original = table
        self.sd_models.model_data.sd_model = model
        self.sd_models.model_data.loaded_sd_models = [model]
        return model

    def swap(self, model: Any, name: str) -> None:
        """Other weights into the same SD1 object: the webui takes the live table for the original one."""
        model.sd_checkpoint_info = SimpleNamespace(filename=str(self.folder / name))
        model.alphas_cumprod_original = model.alphas_cumprod
        self.sd_models.apply_alpha_schedule_override(model)


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Webui:
    found = Webui(tmp_path)
    package = ModuleType("modules")
    for name in ("shared", "sd_models", "sd_models_config", "patches"):
        setattr(package, name, getattr(found, name))
        monkeypatch.setitem(sys.modules, f"modules.{name}", getattr(found, name))
    monkeypatch.setitem(sys.modules, "modules", package)
    return found


DECISIONS = {
    "v-ztsnr": Decision("v_prediction", True, "v_pred", ("v",), ConfigKey("sdxl", True)),
    "v": Decision("v_prediction", False, "v_pred", ("v",), ConfigKey("sdxl", True)),
    "eps": Decision("epsilon", False, "default", ("eps",), ConfigKey("sdxl", False)),
    "eps-b": Decision("epsilon", False, "default", ("eps",), ConfigKey("sdxl", False)),
    "sd2-v": Decision("v_prediction", False, "bias", ("v",), ConfigKey("sd2", True)),
    "sd2": Decision("epsilon", False, "bias", ("eps",), ConfigKey("sd2", False)),
    "unknown": Decision(None, False, "evidence", ("unknown",), None),
}


@pytest.fixture
def host(webui: Webui, monkeypatch: pytest.MonkeyPatch) -> Iterator[a1111.A1111Host]:
    found = a1111.A1111Host()
    decisions = dict(DECISIONS)
    found.decisions = decisions  # type: ignore[attr-defined]
    reports: dict[str, Any] = {}
    found.reports = reports  # type: ignore[attr-defined]
    nothing = SimpleNamespace(architecture=None)

    def resolve(path: Any) -> Any:
        return SimpleNamespace(decision=decisions[Path(path).stem], report=reports.get(Path(path).stem, nothing))

    monkeypatch.setattr(found.resolver, "resolve", resolve, raising=True)
    monkeypatch.setattr(found, "data_folder", lambda: webui.folder / "data")
    found.install()
    yield found
    found.uninstall()


def load(webui: Webui, host: a1111.A1111Host, name: str, *, is_sdxl: bool = True) -> Any:
    model = webui.load(f"{name}.safetensors", is_sdxl=is_sdxl)
    host.model_loaded(model)
    return model


def test_v_prediction_config_is_stable_and_differs_in_two_targets(webui: Webui, host: a1111.A1111Host) -> None:
    first, second = (load(webui, host, name).used_config for name in ("v-ztsnr", "v"))
    assert first == second != webui.stock
    made = Path(first).read_text()
    assert made.count("VWeighting") == made.count("VScaling") == 1
    assert "Eps" not in made
    assert load(webui, host, "eps").used_config == webui.stock


def test_config_beside_the_file_wins(webui: Webui, host: a1111.A1111Host) -> None:
    beside = webui.folder / "v.yaml"
    beside.write_text(SDXL_YAML)
    assert load(webui, host, "v").used_config == str(beside)


def test_sd2_is_told_without_the_webui_running_its_unet(webui: Webui, host: a1111.A1111Host) -> None:
    assert load(webui, host, "sd2-v").used_config == webui.configs["v2-v"]
    assert load(webui, host, "sd2").used_config == webui.configs["v2"]
    assert webui.asked == 0


def test_config_that_cannot_be_rewritten_is_left_to_the_webui(webui: Webui, host: a1111.A1111Host) -> None:
    Path(webui.stock).write_text("- not a config")
    model = load(webui, host, "v")
    assert model.used_config == webui.stock
    assert model.parameterization == "v", "the prediction type is set on the model all the same"


def test_schedule_survives_what_the_webui_does_before_each_batch(webui: Webui, host: a1111.A1111Host) -> None:
    model = load(webui, host, "v-ztsnr")
    for _ in range(3):
        webui.sd_models.apply_alpha_schedule_override(model)
        assert model.parameterization == "v"
        assert sigma(model) == pytest.approx(ZTSNR, rel=1e-5)
        assert sigma(model, 998) == pytest.approx(ZTSNR_998, rel=1e-5)


@pytest.mark.parametrize("option", ["sd_noise_schedule", "use_downcasted_alpha_bar"])
def test_options_of_the_webui_do_not_spoil_a_ztsnr_schedule(webui: Webui, host: a1111.A1111Host, option: str) -> None:
    setattr(webui.opts, option, "Zero Terminal SNR" if option == "sd_noise_schedule" else True)
    model = load(webui, host, "v-ztsnr")
    job = SimpleNamespace(extra_generation_params={})
    webui.sd_models.apply_alpha_schedule_override(model, job)
    assert sigma(model, 998) == pytest.approx(ZTSNR_998, rel=1e-5)
    assert job.extra_generation_params == {}


def test_weights_swapped_into_the_same_object(webui: Webui, host: a1111.A1111Host) -> None:
    """The webui alone would start the second file at the first one's noise level and prediction type."""
    model = load(webui, host, "v-ztsnr", is_sdxl=False)
    webui.swap(model, "eps.safetensors")
    host.model_loaded(model)
    assert model.parameterization == "eps"
    assert sigma(model) == pytest.approx(PLAIN, rel=1e-5)


def test_again_changes_nothing(webui: Webui, host: a1111.A1111Host) -> None:
    model = load(webui, host, "v-ztsnr")
    table = model.alphas_cumprod_original
    host.model_loaded(model)
    host.before_process(SimpleNamespace(sd_model=model))
    host.before_batch(SimpleNamespace(sd_model=model))
    assert model.alphas_cumprod_original is table


def test_same_file_loaded_again_into_the_same_object(webui: Webui, host: a1111.A1111Host) -> None:
    model = load(webui, host, "v-ztsnr", is_sdxl=False)
    with torch.no_grad():
        model.alphas_cumprod.copy_(plain_schedule())  # weights that bring a table are loaded in place
    webui.swap(model, "v-ztsnr.safetensors")
    host.model_loaded(model)
    assert sigma(model) == pytest.approx(ZTSNR, rel=1e-5)


def test_changed_decision_reaches_every_model_in_memory(webui: Webui, host: Any) -> None:
    first, second = load(webui, host, "v-ztsnr"), load(webui, host, "eps")
    webui.sd_models.model_data.loaded_sd_models = [second, first]
    host.decisions["v-ztsnr"] = DECISIONS["v"]
    webui.shared.state.job = "scripts_txt2img"
    host.reapply()
    assert sigma(first) == pytest.approx(ZTSNR, rel=1e-5), "a job that runs keeps what it started with"
    host.before_process(SimpleNamespace(sd_model=second))
    assert sigma(first) == pytest.approx(PLAIN, rel=1e-5)


@pytest.mark.parametrize("is_sdxl", [True, False])
def test_nothing_decided_leaves_the_model_alone(webui: Webui, host: a1111.A1111Host, is_sdxl: bool) -> None:
    model = webui.load("unknown.safetensors", is_sdxl=is_sdxl)
    table = model.alphas_cumprod_original
    host.model_loaded(model)
    assert model.alphas_cumprod_original is table
    assert not hasattr(model, a1111.STATE)


@pytest.mark.parametrize(
    ("architecture", "prediction", "said"),
    [
        ("sdxl", "edm_v_prediction", "type edm_v_prediction; A1111 samples it as epsilon"),
        ("sdxl", "flow", "type flow; A1111 samples it as epsilon"),
        ("flux1", "flow", "is flux1, which A1111 cannot load"),
        ("sd3", "flow", None),
        (None, "undetermined", None),
    ],
)
def test_what_this_webui_cannot_run_is_said(
    webui: Webui,
    host: Any,
    architecture: str | None,
    prediction: str,
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host.reports["unknown"] = SimpleNamespace(architecture=architecture, prediction=SimpleNamespace(type=prediction))
    load(webui, host, "unknown")
    notes = host.status().notes
    assert [said in note for note in notes] == ([True] if said else [])
    assert (said in caplog.text) if said else ("unknown.safetensors" not in caplog.text)


def test_what_is_said_for_a_file_goes_before_the_option_for_all(webui: Webui, host: Any) -> None:
    webui.opts.sd_noise_schedule, webui.opts.use_downcasted_alpha_bar = "Zero Terminal SNR", True
    for said in (False, True):
        host.decisions["v"] = Decision("v_prediction", False, "override", ("v",), ConfigKey("sdxl", True), said)
        model = load(webui, host, "v")
        p = SimpleNamespace(extra_generation_params={"Noise Schedule": "Zero Terminal SNR"})
        webui.sd_models.apply_alpha_schedule_override(model, p)
        if said:
            assert sigma(model) == pytest.approx(PLAIN, rel=1e-5)
            assert p.extra_generation_params == {}
        else:
            assert sigma(model) > 1000
            assert "Noise Schedule" in p.extra_generation_params


def test_the_webuis_next_version_which_rescales_marked_files_itself(webui: Webui, host: Any) -> None:
    """As its dev branch does: the mark is taken out of the state dict, and a flag of the model rescales."""
    asked: list[dict[str, Any]] = []

    def find_checkpoint_config(state_dict: Any, _info: Any) -> str:
        asked.append(dict(state_dict))
        return webui.configs["v2-v"] if state_dict.pop("v_pred", None) is not None else webui.stock

    def override(model: Any, p: Any = None) -> None:
        webui.apply_alpha_schedule_override(model)
        if model.ztsnr:
            model.alphas_cumprod = rescale(model.alphas_cumprod)
            if p is not None:
                p.extra_generation_params["Noise Schedule"] = webui.opts.sd_noise_schedule

    host.uninstall()
    webui.sd_models_config.find_checkpoint_config = find_checkpoint_config
    webui.sd_models.apply_alpha_schedule_override = override
    host.install()
    state_dict = {"v_pred": 0}
    info = SimpleNamespace(filename=str(webui.folder / "v-ztsnr.safetensors"))
    found = [webui.sd_models_config.find_checkpoint_config(state_dict, info) for _ in range(2)]
    assert found[0] == found[1]
    assert [("v_pred" in one) for one in asked] == [True, True]
    for name, wanted in (("v-ztsnr", ZTSNR), ("eps", PLAIN)):
        model = webui.load(f"{name}.safetensors")
        model.ztsnr = True
        host.model_loaded(model)
        p = SimpleNamespace(extra_generation_params={})
        webui.sd_models.apply_alpha_schedule_override(model, p)
        assert sigma(model) == pytest.approx(wanted, rel=1e-5)
        assert p.extra_generation_params.get("Noise Schedule") == ("Zero Terminal SNR" if name == "v-ztsnr" else None)


def test_uninstall_puts_everything_back(webui: Webui, host: a1111.A1111Host) -> None:
    model = load(webui, host, "v-ztsnr")
    host.uninstall()
    assert webui.sd_models_config.find_checkpoint_config == webui.find_checkpoint_config
    assert webui.sd_models.apply_alpha_schedule_override == webui.apply_alpha_schedule_override
    assert model.parameterization == "eps"
    assert torch.equal(model.alphas_cumprod_original, plain_schedule())
    assert not hasattr(model, a1111.STATE)
    host.install()
    host.reapply()
    assert sigma(model) == pytest.approx(ZTSNR, rel=1e-5)


def test_uninstall_under_another_extension(webui: Webui, host: a1111.A1111Host) -> None:
    """A wrapper that was put over ours stays; ours below it does nothing any more."""
    ours = webui.sd_models_config.find_checkpoint_config
    webui.sd_models_config.find_checkpoint_config = lambda state_dict, info: ours(state_dict, info)
    host.uninstall()
    assert webui.load("v.safetensors").used_config == webui.stock
    host.install()
    assert webui.load("v.safetensors").used_config != webui.stock


def test_table_of_the_file_that_ends_in_zero(webui: Webui, host: a1111.A1111Host) -> None:
    model = webui.load("v-ztsnr.safetensors")
    table = rescale(plain_schedule())
    table[-1] = 0.0
    model.alphas_cumprod_original = table
    host.model_loaded(model)
    assert sigma(model) == pytest.approx(ZTSNR, rel=1e-5)
