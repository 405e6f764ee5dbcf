"""The Forge adapter against a stand-in for Forge's predictor, with the host's own arithmetic."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from modelsmith.decision import Decision  # noqa: E402
from modelsmith_webui.hosts import forge, forge_edm  # noqa: E402

ZTSNR_SIGMA_MAX = 4518.76367  # of rescale_zero_terminal_snr_sigmas in Forge, float32
PLAIN_SIGMA_MAX = 14.6146412


class ModelType(enum.Enum):
    """As in huggingface_guess."""

    EPS = 1
    V_PREDICTION = 2


class Prediction(torch.nn.Module):
    """Forge's discrete predictor: names and arithmetic of backend/modules/k_prediction.py."""

    def __init__(self, prediction_type: str) -> None:
        super().__init__()
        self.prediction_type = prediction_type
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        cumprod = torch.cumprod(1.0 - betas, dim=0)
        self.register_buffer("alphas_cumprod", cumprod.float())
        self.set_sigmas(((1 - cumprod) / cumprod) ** 0.5)

    def set_sigmas(self, sigmas: Any) -> None:
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())


class PredictionFlux(Prediction):
    """A predictor that must never be touched."""


def make_model(path: Path, predictor: Prediction, ztsnr: bool = False) -> Any:
    unet = SimpleNamespace(model=SimpleNamespace(predictor=predictor))
    kind = ModelType.V_PREDICTION if predictor.prediction_type == "v_prediction" else ModelType.EPS
    return SimpleNamespace(
        forge_objects=SimpleNamespace(unet=unet),
        model_config=SimpleNamespace(ztsnr=ztsnr, model_type=kind),
        sd_checkpoint_info=SimpleNamespace(filename=str(path)),
    )


def decision(prediction: Any, ztsnr: bool = False) -> Decision:
    return Decision(prediction, ztsnr, "test", ("said by the test",), None)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adapter inside a stand-in for the webui's modules; ``host.answers`` maps file names to decisions."""
    modules, shared, sd_models = ModuleType("modules"), ModuleType("modules.shared"), ModuleType("modules.sd_models")
    shared.opts = SimpleNamespace(sd_noise_schedule="Default")  # pyright: ignore[reportAttributeAccessIssue]
    data = SimpleNamespace(sd_model=None, forge_hash="", forge_loading_parameters={})
    sd_models.model_data = data  # pyright: ignore[reportAttributeAccessIssue]
    modules.shared, modules.sd_models = shared, sd_models  # pyright: ignore[reportAttributeAccessIssue]
    for name, module in (("modules", modules), ("modules.shared", shared), ("modules.sd_models", sd_models)):
        monkeypatch.setitem(sys.modules, name, module)
    adapter: Any = forge.ForgeHost()
    adapter.answers, adapter.opts, adapter.data, adapter.found_type = {}, shared.opts, data, "epsilon"
    adapter.architecture = "sdxl"

    def resolve(path: Path) -> Any:
        report = SimpleNamespace(prediction=SimpleNamespace(type=adapter.found_type), architecture=adapter.architecture)
        return SimpleNamespace(path=path, report=report, decision=adapter.answers[Path(path).name])

    adapter.resolver = SimpleNamespace(resolve=resolve)
    return adapter


def load(host: Any, model: Any) -> Any:
    host.data.sd_model = model
    host.model_loaded(model)
    return model.forge_objects.unet.model.predictor


def test_the_marks_become_prediction_and_table(host: Any, tmp_path: Path) -> None:
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    model = make_model(tmp_path / "a.safetensors", Prediction("epsilon"), ztsnr=True)
    predictor = load(host, model)
    assert predictor.prediction_type == "v_prediction"
    assert float(predictor.sigmas[-1]) == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-6)
    assert float(predictor.log_sigmas[-1]) == pytest.approx(np.log(ZTSNR_SIGMA_MAX), rel=1e-6)
    assert model.model_config.ztsnr is False, "the host would rescale a second time"
    assert model.model_config.model_type is ModelType.V_PREDICTION


def test_table_agrees_with_diffusers(host: Any, tmp_path: Path) -> None:
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    rescaled = schedulers.rescale_zero_terminal_snr(betas.clone())
    expected = torch.cumprod(1.0 - rescaled, dim=0)
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    for index in (0, 500, 900, 998):
        sigma = float(((1 - expected[index]) / expected[index]) ** 0.5)
        assert float(predictor.sigmas[index]) == pytest.approx(sigma, rel=1e-4)


def test_doing_it_again_changes_nothing(host: Any, tmp_path: Path) -> None:
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    before = predictor.sigmas
    for _ in range(3):
        host.before_process(None)
        host.before_batch(None)
        host.reapply()
    assert predictor.sigmas is before


def test_plain_model_keeps_the_very_table_of_the_host(host: Any, tmp_path: Path) -> None:
    host.answers["a.safetensors"] = decision("epsilon")
    model = make_model(tmp_path / "a.safetensors", Prediction("epsilon"))
    before = model.forge_objects.unet.model.predictor.sigmas
    assert load(host, model).sigmas is before


@pytest.mark.parametrize("decided", [decision("epsilon"), decision("v_prediction")])
def test_sigmas_left_behind_by_the_host_are_put_right(host: Any, tmp_path: Path, decided: Decision) -> None:
    host.answers["a.safetensors"] = decided
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    plain = predictor.sigmas.clone()
    leftover = torch.from_numpy(forge.zero_terminal_snr_table(plain.double().numpy()))
    predictor.set_sigmas(leftover)
    host.before_batch(None)
    assert torch.equal(predictor.sigmas, plain)


def test_leftover_met_at_first_sight_is_not_taken_for_the_plain_table(host: Any, tmp_path: Path) -> None:
    predictor = Prediction("epsilon")
    plain = predictor.sigmas.clone()
    predictor.set_sigmas(torch.from_numpy(forge.zero_terminal_snr_table(plain.double().numpy())))
    host.answers["a.safetensors"] = decision("epsilon")
    load(host, make_model(tmp_path / "a.safetensors", predictor))
    assert torch.allclose(predictor.sigmas, plain, rtol=1e-4, atol=0)


def test_override_switched_there_and_back(host: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "a.safetensors", Prediction("epsilon"))
    host.answers["a.safetensors"] = decision("epsilon")
    predictor = load(host, model)
    plain = predictor.sigmas.clone()
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    host.reapply()
    assert (predictor.prediction_type, float(predictor.sigmas[-1]) > 4000) == ("v_prediction", True)
    host.answers["a.safetensors"] = decision("epsilon")
    host.reapply()
    assert predictor.prediction_type == "epsilon"
    assert torch.equal(predictor.sigmas, plain)
    assert model.model_config.model_type is ModelType.EPS


@pytest.mark.parametrize("way", ["switched off", "uninstalled"])
def test_all_is_put_back(host: Any, tmp_path: Path, way: str) -> None:
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    model = make_model(tmp_path / "a.safetensors", Prediction("v_prediction"), ztsnr=True)
    plain = model.forge_objects.unet.model.predictor.sigmas.clone()
    predictor = load(host, model)
    if way == "switched off":
        host.answers["a.safetensors"] = decision(None)
        host.reapply()
    else:
        host.uninstall()
    assert torch.equal(predictor.sigmas, plain)
    assert predictor.prediction_type == "v_prediction"
    assert model.model_config.ztsnr is True
    assert not hasattr(model, forge.STATE)


def test_flow_predictors_are_never_touched(host: Any, tmp_path: Path) -> None:
    predictor = PredictionFlux("epsilon")
    predictor.prediction_type = "const"
    before = predictor.sigmas
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    load(host, make_model(tmp_path / "a.safetensors", predictor))
    assert predictor.prediction_type == "const"
    assert predictor.sigmas is before
    status = host.status()
    assert status is not None
    assert not status.applied


def test_host_option_finds_the_plain_table_to_rescale(host: Any, tmp_path: Path) -> None:
    """Rescaling twice moves the last steps: sigma[998] would be 4497 in place of 2254."""
    host.answers["a.safetensors"] = decision("v_prediction", ztsnr=True)
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    host.opts.sd_noise_schedule = "Zero Terminal SNR"
    host.before_batch(None)
    assert float(predictor.sigmas[-1]) == pytest.approx(PLAIN_SIGMA_MAX, rel=1e-6)
    host.opts.sd_noise_schedule = "Default"
    host.before_batch(None)
    assert float(predictor.sigmas[-1]) == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-6)


def test_host_option_against_the_file_is_said(host: Any, tmp_path: Path) -> None:
    host.answers["a.safetensors"] = decision("epsilon")
    host.opts.sd_noise_schedule = "Zero Terminal SNR"
    load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    status = host.status()
    assert status is not None
    assert "Noise schedule" in status.notes[0]


@pytest.fixture
def continuous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge's backend.modules.k_prediction with the class that all of its predictors are made of."""

    class AbstractPrediction(torch.nn.Module):
        def __init__(self, sigma_data: float = 1.0, prediction_type: str = "epsilon") -> None:
            super().__init__()
            self.sigma_data, self.prediction_type = sigma_data, prediction_type

    module = ModuleType("backend.modules.k_prediction")
    module.AbstractPrediction = AbstractPrediction  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("backend", "backend.modules"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def cosxl(path: Path, **marks: float) -> Path:
    from safetensors.torch import save_file

    save_file({f"edm_vpred.{name}": torch.tensor(value) for name, value in marks.items()}, path)
    return path


@pytest.mark.usefixtures("continuous")
def test_cosxl_gets_a_continuous_schedule_and_gives_it_back(host: Any, tmp_path: Path) -> None:
    path = cosxl(tmp_path / "a.safetensors", sigma_max=100.0)
    host.answers["a.safetensors"], host.found_type = decision(None), "edm_v_prediction"
    own = Prediction("epsilon")
    model = make_model(path, own)
    predictor = load(host, model)
    assert predictor is not own
    assert (predictor.prediction_type, predictor.sigma_data) == ("v_prediction", 1.0)
    assert [float(predictor.sigmas[i]) for i in (0, -1)] == pytest.approx([0.002, 100.0], rel=1e-4)
    # An index of the table and the network's own time both lead to a noise level.
    indices = torch.tensor([999.0, 500.0, 0.0])
    assert predictor.sigma(indices) == pytest.approx(predictor.sigmas[indices.long()], rel=1e-3)
    assert float(predictor.sigma(predictor.timestep(torch.tensor(7.0)))) == pytest.approx(7.0, rel=1e-5)
    assert float(predictor.timestep(torch.tensor(100.0))) == pytest.approx(0.25 * np.log(100.0), rel=1e-6)
    shares = [predictor.percent_to_sigma(share) for share in (0.0, 1e-9, 0.5, 1.0)]
    assert shares == pytest.approx([1e9, 100.0, (0.002 * 100.0) ** 0.5, 0.0], rel=1e-4)
    predictor.set_sigmas(torch.ones(1000))
    assert float(predictor.sigmas[-1]) == pytest.approx(100.0, rel=1e-4)
    host.reapply()
    assert model.forge_objects.unet.model.predictor is predictor
    status = host.status()
    assert status.applied
    assert status.notes == ("EDM v-prediction on continuous noise levels from 0.002 to 100",)
    # Said otherwise by a person, or switched off, it is the webui's own again.
    host.answers["a.safetensors"] = decision("v_prediction")
    host.reapply()
    assert model.forge_objects.unet.model.predictor is own
    assert own.prediction_type == "v_prediction"
    host.answers["a.safetensors"] = decision(None)
    host.reapply()
    assert model.forge_objects.unet.model.predictor is not own
    host.uninstall()
    assert model.forge_objects.unet.model.predictor is own


@pytest.mark.parametrize(
    ("marks", "wanted"),
    [
        ({}, (0.002, 120.0)),
        ({"sigma_min": 0.01, "sigma_max": 80.0}, (0.01, 80.0)),
        ({"sigma_max": float("nan")}, (0.002, 120.0)),
        ({"sigma_min": 200.0}, (0.002, 120.0)),
    ],
)
def test_the_range_of_cosxl_is_read_from_the_file(tmp_path: Path, marks: Any, wanted: tuple[float, float]) -> None:
    path = cosxl(tmp_path / "a.safetensors", other=1.0, **marks)
    assert forge_edm.sigma_range(path) == pytest.approx(wanted)
    assert forge_edm.sigma_range(tmp_path / "missing.safetensors") == (0.002, 120.0)


@pytest.mark.parametrize(
    ("found", "architecture", "said"),
    [
        ("edm_v_prediction", "sdxl", "for which this Forge has no schedule"),
        ("edm", "sdxl", "fails to load"),
        ("flow", "sdxl", "gives noise"),
        ("flow", "flux1", ""),
    ],
)
def test_what_forge_cannot_run_is_said(
    host: Any, tmp_path: Path, found: str, architecture: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.answers["a.safetensors"], host.found_type, host.architecture = decision(None), found, architecture
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("epsilon")))
    assert predictor.prediction_type == "epsilon"
    assert [said in note for note in host.status().notes] == ([True] if said else [])
    assert said in caplog.text


def test_what_is_said_for_a_file_goes_before_the_option_for_all(host: Any, tmp_path: Path) -> None:
    host.opts.sd_noise_schedule = "Zero Terminal SNR"
    said = Decision("v_prediction", False, "override", (), None, ztsnr_said=True)
    host.answers["a.safetensors"] = said
    predictor = load(host, make_model(tmp_path / "a.safetensors", Prediction("v_prediction")))
    plain = predictor.sigmas.clone()
    predictor.set_sigmas(plain * 300)
    assert torch.equal(predictor.sigmas, plain), "Forge's rescale before sampling"
    p = SimpleNamespace(extra_generation_params={"Noise Schedule": "Zero Terminal SNR", "Size": "1x1"})
    host.before_sampling(p)
    assert p.extra_generation_params == {"Size": "1x1"}
    assert host.status().notes == ()
    for change in ("option", "file"):
        host.opts.sd_noise_schedule = "Default" if change == "option" else "Zero Terminal SNR"
        host.answers["a.safetensors"] = said if change == "option" else decision("v_prediction")
        host.reapply()
        predictor.set_sigmas(plain * 300)
        assert not torch.equal(predictor.sigmas, plain)
        host.reapply()
        assert torch.equal(predictor.sigmas, plain)


def test_failed_load_does_not_bar_the_way_back(host: Any, tmp_path: Path) -> None:
    host.data.forge_hash, host.data.sd_model = "of the previous model", None
    host.before_load(None)
    assert host.data.forge_hash == ""
    host.data.forge_hash = "of this model"
    host.data.sd_model = make_model(tmp_path / "a.safetensors", Prediction("epsilon"))
    host.before_load(None)
    assert host.data.forge_hash == "of this model"


def test_nothing_is_done_before_the_first_model(host: Any) -> None:
    host.data.sd_model = SimpleNamespace(cond_stage_model=None, chunk_length=75)  # Forge's FakeInitialModel
    host.before_process(None)
    host.reapply()
    host.uninstall()
    assert host.status() is None
