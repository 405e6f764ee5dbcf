"""Choices for one picture: how they are read, recorded and pasted, and who comes first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from modelsmith.cfg_rescale import rescale_denoised, rescale_noise  # noqa: E402
from modelsmith.decision import Decision, Override, decide  # noqa: E402
from modelsmith.identify.report import Evidence, Prediction, Report  # noqa: E402
from modelsmith_webui import generation, infotext, settings, xyz  # noqa: E402
from modelsmith_webui.generation_script import _labels  # noqa: E402
from modelsmith_webui.hosts import a1111_rescale, forge_rescale  # noqa: E402
from modelsmith_webui.hosts.common import Resolution  # noqa: E402

MARKER = Evidence("v_pred", "tensor v_pred", "strong", "v_prediction")
FILE = Path("model.safetensors")


def report(prediction: str = "epsilon", ztsnr: bool | None = False, architecture: str = "sdxl") -> Report:
    found = Prediction(prediction, ztsnr, evidence=(MARKER,) if prediction == "v_prediction" else ())  # type: ignore[arg-type]
    return Report("m.safetensors", "checkpoint", architecture, (architecture,), "base", found)


EPSILON, V, V_ZTSNR = report(), report("v_prediction"), report("v_prediction", True)


def resolution(found: Report, override: Override | None = None) -> Resolution:
    override = override or Override()
    return Resolution(FILE, found, override, decide(found, override))


@pytest.fixture(autouse=True)
def setting(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = dict(settings.DEFAULTS)
    monkeypatch.setattr(settings, "get", values.__getitem__)
    return values


# precedence


def test_the_picture_goes_before_the_file_and_the_file_before_the_evidence() -> None:
    file = Override(prediction="epsilon", ztsnr="off")
    assert decide(V_ZTSNR, file).source == "override"
    found = decide(V_ZTSNR, file, image=Override(prediction="v_prediction"))
    assert (found.prediction, found.ztsnr, found.source) == ("v_prediction", False, "image")
    found = decide(V_ZTSNR, file, image=Override("v_prediction", "on"))
    assert (found.prediction, found.ztsnr) == ("v_prediction", True)
    assert "ZTSNR on: set for this picture" in found.reasons


def test_no_choice_for_a_picture_reaches_other_families_or_a_switched_off_extension() -> None:
    image = Override("v_prediction", "on")
    assert decide(report("flow", architecture="flux1"), image=image).prediction is None
    assert decide(EPSILON, image=image, enabled=False).prediction is None


def test_rescale_is_of_the_picture_then_the_file_then_the_setting(setting: dict[str, Any]) -> None:
    assert generation.rescale_of(resolution(V_ZTSNR)) == 0.0
    setting[settings.CFG_RESCALE] = 0.3
    assert generation.rescale_of(resolution(V_ZTSNR)) == 0.3
    assert generation.rescale_of(resolution(V)) == generation.rescale_of(resolution(EPSILON)) == 0.0
    own = resolution(V_ZTSNR, Override(cfg_rescale=0.6))
    assert generation.rescale_of(own) == 0.6
    assert generation.rescale_of(own, Override(cfg_rescale=0.0)) == 0.0
    flow = resolution(report("flow", architecture="flux1"), Override(cfg_rescale=0.6))
    assert generation.rescale_of(flow, Override(cfg_rescale=0.7)) == 0.0


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ((), Override()),
        (("Automatic", "Automatic", "Automatic"), Override()),
        (("v_prediction", "On", "0.7"), Override("v_prediction", "on", None, 0.7)),
        (("V-Prediction", "off", "Off"), Override("v_prediction", "off", None, 0.0)),
        (("eps", "auto", 1), Override("epsilon", cfg_rescale=1.0)),
        (("x", "maybe", "7"), Override()),
    ],
)
def test_controls(args: tuple[Any, ...], wanted: Override) -> None:
    assert generation.chosen(SimpleNamespace(), args) == wanted


def test_an_axis_goes_before_the_controls_and_leaves_the_copied_job_alone() -> None:
    class Option:
        def __init__(self, label: str, _type: Any, apply: Any, **more: Any) -> None:
            self.label, self.apply = label, apply
            self.confirm, self.choices = more.get("confirm"), more.get("choices")

    module = SimpleNamespace(AxisOption=Option, axis_options=[Option("Nothing", str, None)])
    data = SimpleNamespace(module=module, script_class=type("Script", (), {"__module__": "xyz_grid.py"}))
    for _ in range(2):
        xyz.add_axes([SimpleNamespace(module=None, script_class=int), data])
    assert [axis.label for axis in module.axis_options] == [
        "Nothing",
        "[Modelsmith] Prediction",
        "[Modelsmith] ZTSNR",
        "[Modelsmith] CFG rescale",
    ]
    vae = SimpleNamespace(listed=lambda: [("my.safetensors", FILE)])
    xyz.add_axes([data], vae)
    assert module.axis_options[-1].label == "[Modelsmith] VAE"
    assert module.axis_options[-1].choices() == ["Automatic", "In the checkpoint", "my.safetensors"]
    with pytest.raises(RuntimeError, match="not one of"):
        module.axis_options[-1].confirm(None, ["my.safetensors", "other"])
    job = SimpleNamespace()
    module.axis_options[-1].apply(job, "my.safetensors", [])
    assert generation.chosen(job, ()).is_auto
    module.axis_options[1].apply(job, "v_prediction", [])
    cell = SimpleNamespace(**vars(job))
    module.axis_options[3].apply(cell, 0.5, [])
    assert generation.chosen(cell, ("epsilon", "Off", "0")) == Override("v_prediction", "off", None, 0.5)
    assert generation.chosen(job, ("epsilon", "Off", "0")) == Override("v_prediction", "off", None, 0.0)


# infotext


def recorded(found: Report, image: Override | None = None, file: Override | None = None, **left: str) -> dict[str, Any]:
    params: dict[str, Any] = dict(left)
    infotext.record(params, decide(found, file, image=image), decide(found))
    return params


def test_nothing_is_recorded_for_a_plain_epsilon_model() -> None:
    assert recorded(EPSILON) == {}
    assert recorded(EPSILON, Override("epsilon")) == {}
    assert recorded(EPSILON, **{"Prediction": "v", "Noise Schedule": "Zero Terminal SNR", "Size": "1x1"}) == {
        "Size": "1x1"
    }
    params: dict[str, Any] = {}
    infotext.record(params, None, decide(V_ZTSNR))
    assert params == {}


def test_what_is_recorded() -> None:
    assert recorded(V) == {"Prediction": "v", "Prediction source": "v_pred"}
    assert recorded(V_ZTSNR)["Noise Schedule"] == "Zero Terminal SNR"
    assert recorded(V_ZTSNR, file=Override(ztsnr="off")) == {"Prediction": "v", "Prediction source": "v_pred"}
    assert recorded(V, Override("epsilon")) == {"Prediction": "epsilon", "Prediction source": "set for this picture"}
    assert recorded(EPSILON, file=Override("v_prediction"))["Prediction source"] == "set for this file"


def translated(params: dict[str, Any], found: Report | None, file: Override | None = None) -> Override:
    path = FILE if found is not None else None
    own = resolution(found or EPSILON, file)
    return infotext.translate(params, lambda _params: path, lambda _path: (own, generation.rescale_of(own)))


@pytest.mark.parametrize("found", [EPSILON, V, V_ZTSNR])
@pytest.mark.parametrize(
    "image", [Override(p, z) for p in ("auto", "epsilon", "v_prediction") for z in ("auto", "on", "off")]
)
def test_a_recorded_picture_is_made_the_same_when_pasted(found: Report, image: Override) -> None:
    made = decide(found, image=image)
    again = decide(found, image=translated(recorded(found, image), found))
    assert (made.prediction, made.ztsnr) == (again.prediction, again.ztsnr)


def test_pasting_what_the_file_gets_anyway_chooses_nothing() -> None:
    params = recorded(V_ZTSNR) | {"Downcast alphas_cumprod": "True", "Steps": "20"}
    assert translated(params, V_ZTSNR).is_auto
    assert "Noise Schedule" not in params
    assert "Downcast alphas_cumprod" not in params
    assert params["Steps"] == "20"
    # Asked again, for the next field, the answer is the same.
    assert translated(params, EPSILON).is_auto


def test_the_noise_schedule_of_other_installs() -> None:
    params = {"Noise Schedule": "Zero Terminal SNR"}
    assert translated(params, V) == Override(ztsnr="on")
    assert "Noise Schedule" not in params
    assert translated({"Noise Schedule": "Default"}, V_ZTSNR).is_auto
    unknown = {"Noise Schedule": "Zero Terminal SNR"}
    assert translated(unknown, report("flow", architecture="flux1")).is_auto
    assert unknown["Noise Schedule"] == "Zero Terminal SNR"
    missing = {"Noise Schedule": "Zero Terminal SNR", "Prediction": "v"}
    assert translated(missing, None).is_auto
    assert "Noise Schedule" not in missing


@pytest.mark.parametrize(("found", "wanted"), [(V_ZTSNR, Override()), (V, Override(ztsnr="on"))])
def test_a_key_that_the_webui_left_out_is_read_from_the_text(
    found: Report, wanted: Override, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neo's reader leaves the noise schedule out of what it gives to the callback."""
    host = Host(found)
    host.resolver.without_image = lambda _path: resolution(found)
    work = generation.Generation(host)
    monkeypatch.setattr(work, "_checkpoint_of", lambda _params: FILE)
    params = {"Prediction": "v", "Steps": "20"}
    text = "Noise Schedule: nothing\nSteps: 20, Prediction: v, Noise Schedule: Zero Terminal SNR, Version: neo"
    assert work.pasted(params, text) == wanted
    assert "Noise Schedule" not in params
    assert work.pasted(params) == wanted, "asked again by each field"
    assert work.pasted({"Prediction": "v"}, "Noise Schedule: Zero Terminal SNR\nSteps: 20") == Override(
        ztsnr="off" if found is V_ZTSNR else "auto"
    )


def test_rescale_is_pasted_where_it_is_not_the_files_own() -> None:
    text = {"Prediction": "v", "Noise Schedule": "Zero Terminal SNR"}
    rescaled = {**text, "Modelsmith CFG rescale": "0.7"}
    own = Override(cfg_rescale=0.7)
    assert translated(dict(rescaled), V_ZTSNR) == own
    assert translated(dict(rescaled), V_ZTSNR, own).is_auto
    assert translated(dict(text), V_ZTSNR, own) == Override(cfg_rescale=0.0)
    assert _labels(translated(dict(text), V_ZTSNR, own)) == ("Automatic", "Automatic", "Off")
    assert _labels(Override("v_prediction", "on", None, 0.7)) == ("v_prediction", "On", "0.7")


# CFG rescale


@pytest.mark.parametrize(
    ("params", "other"),
    [
        ({}, None),
        ({"CFG scale": 7, "Modelsmith CFG rescale": "0.7"}, None),
        ({"CFG Rescale": 0.5}, "CFG Rescale"),
        ({"CFG Rescale": 0}, None),
        ({"latent_modifier_rescale_cfg_phi": 0.7}, "latent_modifier_rescale_cfg_phi"),
        ({"Rescale CFG": "x"}, None),
    ],
)
def test_another_rescale_is_seen(params: dict[str, Any], other: str | None) -> None:
    assert generation.other_rescale(SimpleNamespace(extra_generation_params=params)) == other


@pytest.mark.parametrize(("value", "other"), [(0.0, None), (0.04, None), (0.5, "Rescale CFG")])
def test_neos_rescale_is_seen_where_an_axis_chose_it(value: float, other: str | None) -> None:
    assert generation.other_rescale(SimpleNamespace(extra_generation_params={}, rescale_cfg=value)) == other


class CFGDenoiser:
    """The webui's own arithmetic for one prompt for each picture."""

    def combine_denoised(self, x_out: Any, conds_list: Any, uncond: Any, cond_scale: float) -> Any:
        base = x_out[-uncond.shape[0] :]
        return base + (x_out[: len(base)] - base) * cond_scale


CFGDenoiser.combine_denoised.__module__ = a1111_rescale.WEBUI_MODULE


@pytest.mark.parametrize("by_timestep", [False, True])
def test_a1111_rescales_what_the_sampler_works_with(by_timestep: bool) -> None:
    denoiser: Any = CFGDenoiser()
    alphas = torch.linspace(0.99, 0.01, 1000)
    if by_timestep:
        denoiser.alphas = alphas
        denoiser.inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=alphas))
    p = SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=denoiser))
    assert a1111_rescale.install(p, 0.7, lambda: False)
    noisy, x_out, uncond = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.zeros(2, 77, 8)
    level = torch.tensor([500.0, 500.0]) if by_timestep else torch.tensor([3.0, 3.0])
    step = SimpleNamespace(denoiser=denoiser, x=torch.cat([noisy, noisy]), sigma=torch.cat([level, level]))
    a1111_rescale.note_input(step)
    found = denoiser.combine_denoised(x_out, None, uncond, 7.0)
    guided = CFGDenoiser().combine_denoised(x_out, None, uncond, 7.0)
    if by_timestep:
        wanted = rescale_noise(guided, x_out[:2], noisy, alphas[500].repeat(2), 0.7)
    else:
        wanted = rescale_denoised(guided, x_out[:2], noisy, level, 0.7)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, guided)
    # A second sampler of the webui is untouched.
    assert "combine_denoised" not in vars(CFGDenoiser())


def test_a1111_stays_away_from_foreign_guidance_and_yields() -> None:
    class Replaced(CFGDenoiser):
        def combine_denoised(self, x_out: Any, conds_list: Any, uncond: Any, cond_scale: float) -> Any:
            return x_out

    p = SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=Replaced()))
    assert not a1111_rescale.install(p, 0.7, lambda: False)
    denoiser: Any = CFGDenoiser()
    p = SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=denoiser))
    assert a1111_rescale.install(p, 0.7, lambda: True)
    a1111_rescale.note_input(SimpleNamespace(denoiser=denoiser, x=torch.randn(2, 4, 8, 8), sigma=torch.ones(2)))
    x_out, uncond = torch.randn(2, 4, 8, 8), torch.zeros(1, 77, 8)
    guided = CFGDenoiser().combine_denoised(x_out, None, uncond, 7.0)
    assert torch.equal(denoiser.combine_denoised(x_out, None, uncond, 7.0), guided)


class Unet:
    """The Forge family's: functions after guidance stand in its options, which a clone has a copy of."""

    def __init__(self, functions: list[Any]) -> None:
        self.model_options: dict[str, Any] = {"sampler_post_cfg_function": functions} if functions else {}

    @property
    def functions(self) -> list[Any]:
        return self.model_options.get("sampler_post_cfg_function", [])

    def clone(self) -> Unet:
        return Unet(list(self.functions))

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.model_options["sampler_post_cfg_function"] = [*self.functions, function]


def test_forge_rescales_once_where_the_unet_of_the_first_pass_is_kept() -> None:
    """As Classic does for the hires pass; what others have added stays."""

    def other(args: dict[str, Any]) -> Any:
        return args["denoised"]

    original = Unet([other])
    p = SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=original)))
    forge_rescale.uninstall(p)
    assert p.sd_model.forge_objects.unet is original
    assert forge_rescale.install(p, 0.7, lambda: False)
    first = p.sd_model.forge_objects.unet
    assert forge_rescale.install(p, 0.4, lambda: False)
    kept, function = p.sd_model.forge_objects.unet.functions
    assert kept is other and function is not first.functions[1]
    assert len(first.functions) == 2, "a sampling that runs keeps its own"
    forge_rescale.uninstall(p)
    assert p.sd_model.forge_objects.unet.functions == original.functions == [other]
    forge_rescale.uninstall(SimpleNamespace(sd_model=SimpleNamespace()))


def test_forge_rescales_on_a_clone() -> None:
    original = Unet([])
    p = SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=original)))
    yields = [False]
    assert forge_rescale.install(p, 0.7, lambda: yields[0])
    assert original.functions == []
    (function,) = p.sd_model.forge_objects.unet.functions
    guided, cond, noisy, sigma = (
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        torch.ones(2),
    )
    args = {"denoised": guided, "cond_denoised": cond, "input": noisy, "sigma": sigma}
    torch.testing.assert_close(function(args), rescale_denoised(guided, cond, noisy, sigma, 0.7))
    yields[0] = True
    assert function(args) is guided
    p.sd_model.forge_objects.unet = object()
    assert not forge_rescale.install(p, 0.7, lambda: False)


# a job


class Host:
    """Says what it was asked, in order, with the choice for the picture at that moment."""

    advice = prober = vae = None

    def __init__(self, found: Report) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.resolver: Any = SimpleNamespace(image=None, report=lambda _path: found)
        self.found = found
        self.resolver.resolve = lambda _path: resolution(found)

    def __getattr__(self, name: str) -> Any:
        return lambda *_args: self.calls.append((name, self.resolver.image))

    def loaded_checkpoint(self) -> Path:
        return FILE

    def applied_decision(self) -> Decision:
        image = self.resolver.image[1] if self.resolver.image else None
        return decide(self.found, image=image)


def test_a_choice_holds_from_the_start_of_its_job_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(EPSILON)
    work = generation.Generation(host)
    monkeypatch.setattr(work, "_advise", lambda *_args: None)
    p = SimpleNamespace(extra_generation_params={})
    chosen = (FILE, Override("v_prediction"))
    work.before_load(p)
    work.begin(p, ("v_prediction",))
    work.before_batch(p)
    assert p.extra_generation_params["Prediction"] == "v"
    work.end(p)
    assert host.calls == [
        ("before_load", None),
        ("reapply", chosen),
        ("before_process", chosen),
        ("cannot_run", chosen),
        ("before_batch", chosen),
        ("reapply", None),
        ("before_process", None),
    ]
    # One that failed has no end.
    host.calls.clear()
    work.begin(p, ("v_prediction",))
    host.calls.clear()
    work.before_load(SimpleNamespace())
    assert host.calls == [("reapply", None), ("before_load", None)]
