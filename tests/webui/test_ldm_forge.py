"""The adapter for reForge and Classic against a stand-in for their model, with the webuis' names and arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from modelsmith.decision import Decision, Override  # noqa: E402
from modelsmith_webui.hosts import ldm_forge  # noqa: E402

PLAIN_MAX, ZTSNR_MAX = 14.6146412, 4518.76367
ZTSNR_998 = 2254.238


# Names and arithmetic of ldm_patched/modules/model_sampling.py.


class EPS:
    """Epsilon."""


class V_PREDICTION(EPS):
    """V-prediction."""


class EDM(V_PREDICTION):
    """A continuous schedule's."""


class X0(EPS):
    """What IMG_TO_IMG is made of."""


class ModelSamplingDiscrete(torch.nn.Module):
    def __init__(self, ztsnr: bool = False) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        cumprod = torch.cumprod(1.0 - betas, dim=0)
        sigmas = ((1 - cumprod) / cumprod) ** 0.5
        self.set_sigmas(rescale_zero_terminal_snr_sigmas(sigmas) if ztsnr else sigmas)

    def set_sigmas(self, sigmas: Any) -> None:
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())


class StableCascadeSampling(ModelSamplingDiscrete):
    """Derived from the discrete one, but with a schedule of its own."""


def rescale_zero_terminal_snr_abar(alphas_cumprod: Any) -> Any:
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    rescaled = ((root - last) * (first / (first - last))) ** 2
    rescaled[-1] = 4.8973451890853435e-08
    return rescaled


def rescale_zero_terminal_snr_sigmas(sigmas: Any) -> Any:
    cumprod = rescale_zero_terminal_snr_abar(1 / (sigmas * sigmas + 1))
    return ((1 - cumprod) / cumprod) ** 0.5


def make_sampling(kind: type = EPS, schedule: type = ModelSamplingDiscrete, ztsnr: bool = False) -> Any:
    """As ldm_patched/modules/model_base.py: model_sampling."""
    return type("ModelSampling", (schedule, kind), {})(ztsnr)


class Engine(torch.nn.Module):
    """The webui's sd_model: a torch module, ``alphas_cumprod`` a plain attribute (SDXL) or a buffer (SD1)."""

    def __init__(self, path: Path, sampling: Any, ztsnr: bool = False, buffer: bool = False) -> None:
        super().__init__()
        unet = SimpleNamespace(model_sampling=sampling, model_config=SimpleNamespace(sampling_settings={}))
        self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=unet))
        self.sd_checkpoint_info = SimpleNamespace(filename=str(path))
        self.ztsnr = ztsnr
        cumprod = (1 / (1 + ModelSamplingDiscrete().sigmas.double() ** 2)).float()
        if buffer:
            self.register_buffer("alphas_cumprod", cumprod)
        else:
            self.alphas_cumprod = cumprod

    @property
    def sampling(self) -> Any:
        return self.forge_objects.unet.model.model_sampling


def decision(prediction: Any, ztsnr: bool = False) -> Decision:
    return Decision(prediction, ztsnr, "test", ("said by the test",), None)


class Data:
    """The webui's SdModelData."""

    def __init__(self) -> None:
        self.sd_model: Any = None
        self.loaded_sd_models: list[Any] = []


class World:
    """The stand-in's modules and what the tests set in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Decision] = {}
        self.overrides: dict[str, Override] = {}
        self.opts = SimpleNamespace(sd_noise_schedule="Default", use_downcasted_alpha_bar=False)
        self.state = SimpleNamespace(job="")
        self.data: Any = type("SdModelData", (Data,), {})()
        self.modules = {
            name: ModuleType(f"modules.{name}") for name in ("shared", "sd_models", "processing", "patches")
        }
        vars(self.modules["shared"]).update(opts=self.opts, state=self.state)
        vars(self.modules["sd_models"]).update(
            model_data=self.data, apply_alpha_schedule_override=self._override_of_the_webui
        )
        self.processing = self.modules["processing"]
        vars(self.processing).update(rescale_zero_terminal_snr_sigmas=rescale_zero_terminal_snr_sigmas)
        originals: dict[Any, Any] = {}

        def patch(key: Any, module: Any, name: str, replacement: Any) -> None:
            originals[key, module.__name__, name] = getattr(module, name)
            setattr(module, name, replacement)

        def undo(key: Any, module: Any, name: str) -> None:
            setattr(module, name, originals.pop((key, module.__name__, name)))

        vars(self.modules["patches"]).update(patch=patch, undo=undo)
        package = ModuleType("modules")
        vars(package).update(self.modules)
        monkeypatch.setitem(sys.modules, "modules", package)
        forge_package, self.loader = ModuleType("modules_forge"), ModuleType("modules_forge.forge_loader")
        vars(self.loader).update(find_checkpoint_config=lambda _state_dict, _info: "the webui's own.yaml")
        vars(forge_package).update(forge_loader=self.loader)
        monkeypatch.setitem(sys.modules, "modules_forge", forge_package)
        monkeypatch.setitem(sys.modules, "modules_forge.forge_loader", self.loader)
        for name, module in self.modules.items():
            monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        self.host: Any = ldm_forge.LdmForgeHost()
        self.host.resolver = SimpleNamespace(resolve=self._resolve)
        self.host.install()

    def _resolve(self, path: Path) -> Any:
        name = Path(path).name
        return SimpleNamespace(path=path, decision=self.answers[name], override=self.overrides.get(name, Override()))

    def _override_of_the_webui(self, sd_model: Any, p: Any = None, force_apply: bool = False) -> None:
        """As reForge's: from the copy, rescaled where the option, the mark or a script wants it."""
        if not hasattr(sd_model, "alphas_cumprod_original"):
            return
        sd_model.alphas_cumprod = sd_model.alphas_cumprod_original
        if self.opts.sd_noise_schedule == "Zero Terminal SNR" or sd_model.ztsnr or force_apply:
            sd_model.alphas_cumprod = rescale_zero_terminal_snr_abar(sd_model.alphas_cumprod)

    def load(self, model: Engine, wanted: Decision) -> Engine:
        self.answers[Path(model.sd_checkpoint_info.filename).name] = wanted
        self.data.sd_model = model
        self.data.loaded_sd_models.insert(0, model)
        self.host.model_loaded(model)
        return model

    def batch(self, model: Engine, fails: bool = False, **job: Any) -> tuple[float, float, float]:
        """One batch as reForge runs it: last sigmas of both tables and sigma[998] of the lookup, in sampling."""
        p = SimpleNamespace(sd_model=model, extra_generation_params={}, **job)
        self.host.before_batch(p)
        sd_models: Any = self.modules["sd_models"]
        rescale: Any = self.processing
        if self.opts.sd_noise_schedule == "Zero Terminal SNR" or model.ztsnr:
            model.sigmas_original = model.sampling.sigmas
            model.alphas_cumprod_original = model.alphas_cumprod
            sd_models.apply_alpha_schedule_override(model, p)
            model.sampling.set_sigmas(rescale.rescale_zero_terminal_snr_sigmas(model.sampling.sigmas))
        seen = (last_sigma(model), float(model.sampling.sigmas[-1]), float(model.sampling.sigmas[998]))
        if fails:
            return seen
        if hasattr(model, "sigmas_original"):
            model.sampling.set_sigmas(model.sigmas_original)
        if hasattr(model, "alphas_cumprod_original"):
            model.alphas_cumprod = model.alphas_cumprod_original
        return seen


def last_sigma(model: Engine) -> float:
    last = float(model.alphas_cumprod.double()[-1])
    return ((1 - last) / last) ** 0.5


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def is_v(model: Engine) -> bool:
    return isinstance(model.sampling, V_PREDICTION)


RESCALED = (pytest.approx(ZTSNR_MAX, rel=1e-5), pytest.approx(ZTSNR_MAX, rel=1e-5), pytest.approx(ZTSNR_998, rel=1e-4))


@pytest.mark.parametrize("buffer", [False, True])
def test_a_file_without_marks_becomes_v_prediction_with_ztsnr(world: World, tmp_path: Path, buffer: bool) -> None:
    model = Engine(tmp_path / "a", make_sampling(), buffer=buffer)
    before = model.sampling
    world.load(model, decision("v_prediction", ztsnr=True))
    assert model.sampling is before, "scripts may hold it"
    assert is_v(model)
    assert type(model.sampling).__name__ == "ModelSampling"
    assert world.batch(model) == RESCALED
    assert float(model.sampling.log_sigmas[-1]) == pytest.approx(np.log(ZTSNR_MAX), rel=1e-6)
    assert ("alphas_cumprod" in dict(model.named_buffers())) == buffer


def test_both_tables_agree_with_diffusers(world: World, tmp_path: Path) -> None:
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1.0 - schedulers.rescale_zero_terminal_snr(betas.clone()), dim=0)
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("v_prediction", ztsnr=True))
    for index in (0, 500, 900, 998):
        sigma = float(((1 - expected[index]) / expected[index]) ** 0.5)
        cumprod = model.alphas_cumprod.double()[index]
        assert float(model.sampling.sigmas[index]) == pytest.approx(sigma, rel=1e-4)
        assert float(((1 - cumprod) / cumprod) ** 0.5) == pytest.approx(sigma, rel=1e-4)


def test_an_exception_leaves_nothing_for_the_next_batch(world: World, tmp_path: Path) -> None:
    sampling = make_sampling(V_PREDICTION, ztsnr=True)
    model = world.load(Engine(tmp_path / "a", sampling, ztsnr=True), decision("v_prediction", ztsnr=True))
    assert model.ztsnr is False, "the webui would rescale a second time"
    for fails in (True, True, False, False):
        assert world.batch(model, fails=fails) == RESCALED


def test_the_stand_in_does_go_wrong_by_itself(world: World, tmp_path: Path) -> None:
    world.host.uninstall()
    world.host.before_batch = lambda _p: None
    model = Engine(tmp_path / "a", make_sampling(V_PREDICTION, ztsnr=True), ztsnr=True)
    assert world.batch(model, fails=True)[2] > 4400
    assert world.batch(model, fails=True)[2] > 4600


def test_the_webuis_option_does_not_rescale_twice(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("v_prediction", ztsnr=True))
    world.opts.sd_noise_schedule = "Zero Terminal SNR"
    for fails in (False, True, False):
        assert world.batch(model, fails=fails) == RESCALED


def test_the_webuis_option_is_honoured_for_v_and_then_gone(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling(V_PREDICTION)), decision("v_prediction"))
    world.opts.sd_noise_schedule = "Zero Terminal SNR"
    assert world.batch(model) == RESCALED
    world.opts.sd_noise_schedule = "Default"
    assert world.batch(model)[:2] == (pytest.approx(PLAIN_MAX, rel=1e-5), pytest.approx(PLAIN_MAX, rel=1e-5))


def test_the_webuis_option_on_epsilon_heals_after_an_exception(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("epsilon"))
    world.opts.sd_noise_schedule = "Zero Terminal SNR"
    assert world.batch(model, fails=True)[0] == pytest.approx(ZTSNR_MAX, rel=1e-5)
    assert "Noise schedule" in world.host.status().notes[0]
    world.opts.sd_noise_schedule = "Default"
    assert world.batch(model)[:2] == (pytest.approx(PLAIN_MAX, rel=1e-5), pytest.approx(PLAIN_MAX, rel=1e-5))
    assert world.host.status().notes == ()


def test_plain_epsilon_keeps_the_webuis_tables_to_the_bit(world: World, tmp_path: Path) -> None:
    model = Engine(tmp_path / "a", make_sampling())
    sigmas, cumprod = model.sampling.sigmas, model.alphas_cumprod
    world.load(model, decision("epsilon"))
    assert model.sampling.sigmas is sigmas
    assert model.alphas_cumprod is cumprod


def test_announced_again_after_a_vae_change(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("v_prediction", ztsnr=True))
    for _ in range(3):
        world.host.model_loaded(model)
    assert world.batch(model) == RESCALED


def test_cached_models_keep_their_own(world: World, tmp_path: Path) -> None:
    one = world.load(Engine(tmp_path / "a", make_sampling()), decision("v_prediction", ztsnr=True))
    two = world.load(Engine(tmp_path / "b", make_sampling()), decision("epsilon"))
    for model in (one, two, one):
        world.data.sd_model = model
        seen = world.batch(model)
        assert seen[:2] == pytest.approx((ZTSNR_MAX, ZTSNR_MAX) if model is one else (PLAIN_MAX, PLAIN_MAX), rel=1e-5)
        assert is_v(model) == (model is one)


@pytest.mark.parametrize("marked", [False, True])
def test_switched_off_gives_back_what_the_webui_had(world: World, tmp_path: Path, marked: bool) -> None:
    kind = V_PREDICTION if marked else EPS
    model = Engine(tmp_path / "a", make_sampling(kind, ztsnr=marked), ztsnr=marked)
    model.alphas_cumprod_original = model.alphas_cumprod.clone()
    had = (type(model.sampling), model.sampling.sigmas.clone(), model.alphas_cumprod.clone())
    world.load(model, decision("epsilon" if marked else "v_prediction", ztsnr=not marked))
    assert is_v(model) is not marked
    assert not hasattr(model, "alphas_cumprod_original"), "the webui would put it back"
    world.answers["a"] = decision(None)
    world.host.reapply()
    for undo in (lambda: None, world.host.uninstall):
        undo()
        assert type(model.sampling) is had[0]
        assert torch.equal(model.sampling.sigmas, had[1])
        assert torch.equal(model.alphas_cumprod, had[2])
        assert torch.equal(model.alphas_cumprod_original, had[2])
        assert model.ztsnr is marked
    assert not hasattr(model, ldm_forge.STATE)
    assert world.processing.rescale_zero_terminal_snr_sigmas is rescale_zero_terminal_snr_sigmas


def test_uninstall_restores_all_models_in_memory(world: World, tmp_path: Path) -> None:
    models = [
        world.load(Engine(tmp_path / name, make_sampling()), decision("v_prediction", ztsnr=True))
        for name in ("a", "b")
    ]
    world.host.uninstall()
    for model in models:
        assert not is_v(model)
        assert last_sigma(model) == pytest.approx(PLAIN_MAX, rel=1e-5)
        assert float(model.sampling.sigmas[-1]) == pytest.approx(PLAIN_MAX, rel=1e-5)


def advanced_job(ticked: bool) -> dict[str, Any]:
    script = SimpleNamespace(name="advanced model sampling for reforge", args_from=1, args_to=5)
    given = [None, ticked, "Discrete", "v_prediction", True]
    return {"scripts": SimpleNamespace(alwayson_scripts=[script]), "script_args": given}


def test_advanced_model_sampling_has_its_way_for_its_job(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("v_prediction", ztsnr=True))
    ours = model.sampling
    world.host.before_batch(SimpleNamespace(sd_model=model, **advanced_job(True)))
    assert not is_v(model)
    assert last_sigma(model) == pytest.approx(PLAIN_MAX, rel=1e-5)
    assert "Advanced Model Sampling" in world.host.status().notes[0]
    assert not world.host.status().applied
    # The script's object stays on the UNet until the next sampling takes it off, after our turn.
    script_s = type("ModelSamplingAdvanced", (ModelSamplingDiscrete, EPS), {})(True)
    model.forge_objects.unet.model.model_sampling = script_s
    model.alphas_cumprod = rescale_zero_terminal_snr_abar(model.alphas_cumprod)
    model.sigmas_original = torch.ones(1000)
    world.host.before_batch(SimpleNamespace(sd_model=model, **advanced_job(False)))
    model.forge_objects.unet.model.model_sampling = ours
    assert isinstance(ours, V_PREDICTION)
    assert not hasattr(model, "sigmas_original")
    assert world.batch(model) == RESCALED
    assert world.host.status().applied


@pytest.mark.parametrize(
    "sampling",
    [
        make_sampling(EDM),
        make_sampling(X0),
        make_sampling(EPS, StableCascadeSampling),
        type("ModelSamplingAdvanced", (ModelSamplingDiscrete, EPS), {})(),
        type("ModelSampling", (torch.nn.Module,), {})(),
    ],
    ids=["edm", "x0", "cascade", "script", "flow"],
)
def test_other_samplings_are_never_touched(world: World, tmp_path: Path, sampling: Any) -> None:
    model = Engine(tmp_path / "a", sampling, ztsnr=True)
    before, kind = dict(sampling.named_buffers()), type(sampling)
    world.load(model, decision("v_prediction", ztsnr=True))
    world.host.before_batch(SimpleNamespace(sd_model=model))
    assert type(sampling) is kind
    assert all(getattr(sampling, name) is value for name, value in before.items())
    assert last_sigma(model) == pytest.approx(PLAIN_MAX, rel=1e-5)
    assert model.ztsnr is True
    assert not world.host.status().applied
    assert "leaves as it is" in world.host.status().notes[0]


def test_another_kind_of_betas_is_left_alone(world: World, tmp_path: Path) -> None:
    model = Engine(tmp_path / "a", make_sampling())
    model.forge_objects.unet.model.model_config.sampling_settings["beta_schedule"] = "cosine"
    world.load(model, decision("v_prediction", ztsnr=True))
    assert not is_v(model)


def test_a_change_waits_for_the_running_job(world: World, tmp_path: Path) -> None:
    model = world.load(Engine(tmp_path / "a", make_sampling()), decision("epsilon"))
    world.answers["a"] = decision("v_prediction", ztsnr=True)
    world.state.job = "txt2img"
    world.host.reapply()
    assert not is_v(model)
    assert world.batch(model) == RESCALED


def test_a_model_torn_down_and_none_at_all(world: World, tmp_path: Path) -> None:
    model = Engine(tmp_path / "a", make_sampling())
    model.forge_objects = None  # pyright: ignore[reportAttributeAccessIssue]
    world.load(model, decision("v_prediction", ztsnr=True))
    world.host.before_batch(SimpleNamespace(sd_model=model))
    assert not world.host.status().applied
    del world.data.sd_model
    assert world.data.sd_model is None
    assert world.host.status() is None
    world.host.uninstall()
    assert not hasattr(world.data, "sd_model"), "as the webui has it"
