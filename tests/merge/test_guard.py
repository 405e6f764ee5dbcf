"""The prediction guard: what passes, what stops and why, and what the result is marked as."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from merge.models import Model, write_model
from modelsmith.errors import MergeError, UnknownNameError
from modelsmith.identify import identify
from modelsmith.merge.blocks import LAYOUTS, preset_weights
from modelsmith.merge.engine import run_merge
from modelsmith.merge.guard import InputPrediction, Notice, PredictionMixError, Weights, judge
from modelsmith.merge.message_table import ERRORS, NOTICES
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import MergeRequest

LAYOUT = LAYOUTS["sdxl"]
EPS = InputPrediction("eps", "epsilon", False)
EPS2 = InputPrediction("eps2", "epsilon", False)
V = InputPrediction("v", "v_prediction", False)
ZT = InputPrediction("zt", "v_prediction", True)
FLOW = InputPrediction("flow", "flow", None)
EDM = InputPrediction("edm", "edm", None)
UNKNOWN = InputPrediction("unknown", "undetermined", None)


def weights(alpha: float, **blocks: float) -> Weights:
    return Weights(LAYOUT, LAYOUT.resolve(blocks, alpha))


def out_of_b(rest: float) -> Weights:
    return weights(rest, TIME=1.0, FINAL=1.0, **{f"OUT{index:02d}": 1.0 for index in range(9)})


@pytest.mark.parametrize(("one", "other"), [(EPS, EPS2), (V, V), (FLOW, FLOW), (EDM, EDM)])
def test_models_of_one_type_mix_freely(one: InputPrediction, other: InputPrediction) -> None:
    verdict = judge((one, other), "sum", weights(0.5))
    assert (verdict.type, verdict.ztsnr, verdict.notices) == (one.type, one.ztsnr, ())


@pytest.mark.parametrize(("one", "other"), [(EPS, V), (V, EPS), (EPS, ZT), (FLOW, EPS), (EDM, V), (EPS, EDM)])
def test_a_mix_of_types_stops_with_reason_and_remedy(one: InputPrediction, other: InputPrediction) -> None:
    with pytest.raises(PredictionMixError) as caught:
        judge((one, other), "sum", weights(0.5))
    assert one.name in caught.value.message and other.name in caught.value.message and caught.value.remedy
    if {one.type, other.type} == {"epsilon", "v_prediction"}:
        assert "add difference" in caught.value.remedy and "OUT" in caught.value.remedy


def test_a_named_choice_overrides_and_marks() -> None:
    verdict = judge((EPS, ZT), "sum", weights(0.5), "v_prediction")
    assert (verdict.type, verdict.ztsnr) == ("v_prediction", True)
    assert verdict.notices[0].level == "warning" and "your choice" in verdict.notices[0].text
    assert judge((EPS, ZT), "sum", weights(0.5), "epsilon").type == "epsilon"
    with pytest.raises(UnknownNameError):
        judge((EPS, EPS2), "sum", weights(0.5), "whatever")


def test_only_text_weights_leave_a_as_it_is() -> None:
    network = {block.id: 0.0 for block in LAYOUT.blocks if block.group in ("in", "middle", "out", "other")}
    verdict = judge((EPS, ZT), "sum", weights(0.5, **network))
    assert (verdict.type, verdict.ztsnr, verdict.notices) == ("epsilon", False, ())


def test_output_blocks_from_one_model_alone_decide_the_type() -> None:
    verdict = judge((EPS, ZT), "sum", out_of_b(0.5))
    assert (verdict.type, verdict.ztsnr) == ("v_prediction", True)
    assert "IN00" in verdict.notices[0].text and verdict.notices[0].level == "warning"
    everything = judge((EPS, ZT), "sum", weights(1.0))
    assert (everything.type, everything.notices) == ("v_prediction", ())


def test_methods_that_add_parts_of_a_difference_never_become_b() -> None:
    assert judge((EPS, ZT), "sum", weights(1.0)).type == "v_prediction"
    with pytest.raises(PredictionMixError):
        judge((EPS, ZT), "delta", weights(1.0))


def test_flow_is_never_decided_by_blocks() -> None:
    with pytest.raises(PredictionMixError):
        judge((EPS, FLOW), "sum", out_of_b(0.5))


def test_an_unknown_type_warns() -> None:
    verdict = judge((UNKNOWN, V), "sum", weights(0.5))
    assert verdict.type == "v_prediction" and "could not be determined" in verdict.notices[0].text


@pytest.mark.parametrize(
    ("models", "alpha", "wanted"),
    [
        ((EPS, EPS2, EPS), 0.5, ("epsilon", False)),
        ((EPS, ZT, EPS2), 1.0, ("v_prediction", True)),
        ((EPS, V, EPS2), 1.0, ("v_prediction", False)),
        ((ZT, EPS, EPS2), 0.7, ("v_prediction", True)),
        ((EPS, ZT, ZT), 0.7, ("epsilon", False)),
        ((V, EPS, V), 1.0, ("epsilon", False)),
    ],
)
def test_add_difference_follows_the_rule(
    models: tuple[InputPrediction, ...], alpha: float, wanted: tuple[str, bool]
) -> None:
    verdict = judge(models, "difference", weights(alpha))
    assert (verdict.type, verdict.ztsnr) == wanted


def test_a_difference_learned_in_another_type_warns() -> None:
    assert judge((ZT, EPS, EPS2), "difference", weights(0.7)).notices[0].level == "warning"


@pytest.mark.parametrize(("models", "alpha"), [((EPS, V, EPS2), 0.5), ((V, ZT, EPS), 1.0), ((FLOW, V, EPS), 1.0)])
def test_add_difference_that_gives_neither_type_stops(models: tuple[InputPrediction, ...], alpha: float) -> None:
    with pytest.raises(PredictionMixError):
        judge(models, "difference", weights(alpha))


def test_ztsnr_follows_the_blocks_that_carry_it() -> None:
    assert judge((V, ZT), "sum", weights(0.7)).ztsnr is True
    low = judge((V, ZT), "sum", weights(0.3))
    assert low.ztsnr is False and "OUT00-OUT08" in low.notices[0].text and "TIME" in low.notices[0].text
    whole = judge((V, ZT), "sum", out_of_b(0.3))
    assert whole.ztsnr is True and whole.notices[0].level == "info"


def merged(tmp_path: Path, models: tuple[Model, ...], request: MergeRequest) -> Path:
    paths = tuple(write_model(tmp_path / f"{number}.safetensors", model) for number, model in enumerate(models))
    plan = plan_merge(
        MergeRequest(paths, request.method, tmp_path / request.output, request.parameters, request.block_weights,
                     metadata=request.metadata, copy_metadata=request.copy_metadata,
                     allow_prediction_mix=request.allow_prediction_mix)
    )  # fmt: skip
    return run_merge(plan).path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata()


VPRED = ("v_pred", "ztsnr")
STALE = {"modelspec.prediction_type": "epsilon", "modelspec.architecture": "stable-diffusion-xl-v1-base",
         "modelspec.hash_sha256": "0x00", "modelspec.title": "old", "ss_base": "x"}  # fmt: skip


def test_a_v_model_of_two_v_models_keeps_its_markers(tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        (Model(seed=1, markers=VPRED, metadata=STALE), Model(seed=2, markers=VPRED)),
        MergeRequest((), "weighted_sum", Path("o.safetensors"), {"alpha": 0.5}),
    )
    state = load_file(str(out))
    for marker in VPRED:
        assert state[marker].shape == (0,) and state[marker].dtype == torch.float32
    metadata = metadata_of(out)
    assert metadata["modelspec.prediction_type"] == metadata["modelspec.predict_key"] == "v"
    assert "modelspec.hash_sha256" not in metadata and "modelspec.title" not in metadata and "ss_base" not in metadata
    report = identify(out)
    assert report.prediction.type == "v_prediction" and report.prediction.zero_terminal_snr is True
    assert report.prediction.conflict is False


def test_markers_that_no_longer_hold_are_dropped(tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        (Model(seed=1, markers=VPRED), Model(seed=2), Model(seed=3, markers=VPRED)),
        MergeRequest((), "add_difference", Path("o.safetensors"), {"alpha": 1.0}),
    )
    assert not {"v_pred", "ztsnr"} & set(load_file(str(out)))
    assert metadata_of(out)["modelspec.prediction_type"] == "epsilon"
    assert identify(out).prediction.type == "epsilon"


def test_a_conversion_by_add_difference_gains_markers(tmp_path: Path) -> None:
    out = merged(
        tmp_path,
        (Model(seed=1, metadata=STALE), Model(seed=2, markers=VPRED), Model(seed=3)),
        MergeRequest((), "add_difference", Path("o.safetensors"), {"alpha": 1.0}, copy_metadata=True),
    )
    assert {"v_pred", "ztsnr"} <= set(load_file(str(out)))
    metadata = metadata_of(out)
    assert metadata["modelspec.prediction_type"] == "v" and metadata["ss_base"] == "x"
    assert json.loads(metadata["modelsmith_recipe"])["prediction"] == {
        "type": "v_prediction",
        "zero_terminal_snr": True,
    }


def test_a_kept_noise_schedule_of_another_type_is_dropped(tmp_path: Path) -> None:
    kept = {"alphas_cumprod": torch.linspace(0.99, 0.00466, 1000)}
    models = (Model(seed=1, extra=kept), Model(seed=2, markers=VPRED, extra=kept), Model(seed=3, extra=kept))
    request = MergeRequest((), "add_difference", Path("o.safetensors"), {"alpha": 1.0})
    assert "alphas_cumprod" not in load_file(str(merged(tmp_path, models, request)))
    same = MergeRequest((), "add_difference", Path("p.safetensors"), {"alpha": 0.5})
    found = load_file(str(merged(tmp_path, (models[0], models[2], models[2]), same)))
    assert torch.equal(found["alphas_cumprod"], kept["alphas_cumprod"])


def test_cosxl_keeps_its_sigmas(tmp_path: Path) -> None:
    extra = {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    models = (Model(seed=1, extra=extra), Model(seed=2, extra=extra))
    out = merged(tmp_path, models, MergeRequest((), "weighted_sum", Path("o.safetensors"), {"alpha": 0.5}))
    state = load_file(str(out))
    assert state["edm_vpred.sigma_max"].item() == 80.0 and "v_pred" not in state
    assert identify(out).prediction.type == "edm_v_prediction"


def test_a_weighted_sum_across_types_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PredictionMixError):
        merged(
            tmp_path,
            (Model(seed=1), Model(seed=2, markers=VPRED)),
            MergeRequest((), "weighted_sum", Path("o.safetensors"), {"alpha": 0.5}),
        )
    assert not (tmp_path / "o.safetensors").exists()


def test_remedies_offer_the_preset_that_works() -> None:
    for one, other in ((EPS, ZT), (ZT, EPS)):
        with pytest.raises(PredictionMixError) as caught:
            judge((one, other), "sum", weights(0.5))
        preset = caught.value.preset
        assert preset is not None and preset in caught.value.remedy
        assert judge((one, other), "sum", weights(0.5, **preset_weights(preset, LAYOUT))).type == "v_prediction"
    with pytest.raises(PredictionMixError) as caught:
        judge((EPS, FLOW), "sum", weights(0.5))
    assert caught.value.preset == "PARTS_ONLY" and "PARTS_ONLY" in caught.value.remedy
    assert judge((EPS, FLOW), "sum", weights(0.5, **preset_weights("PARTS_ONLY", LAYOUT))).type == "epsilon"
    with pytest.raises(PredictionMixError) as caught:
        judge((EPS, V, EPS2), "difference", weights(0.5))
    assert caught.value.preset == "OUT_FROM_B"
    assert judge((EPS, V, EPS2), "difference", weights(0.5, **preset_weights("OUT_FROM_B", LAYOUT))).type == (
        "v_prediction"
    )


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    ("models", "effect", "preset"),
    [
        ((V, ZT), "sum", "OUT_FROM_B"),
        ((ZT, V), "sum", "OUT_FROM_A"),
        ((ZT, V), "delta", "OUT_FROM_A"),
        ((V, ZT, V), "difference", "OUT_FROM_B"),
        ((ZT, V, ZT), "difference", "OUT_FROM_A"),
    ],
)
def test_a_mix_of_ztsnr_names_blocks_and_a_preset_that_keeps_it(
    models: tuple[InputPrediction, ...], effect: str, preset: str, alpha: float
) -> None:
    told_so = judge(models, effect, weights(alpha)).notices[0]
    assert (told_so.level, told_so.preset) == ("warning", preset)
    assert preset in told_so.text and "OUT00-OUT08" in told_so.text
    assert judge(models, effect, weights(alpha, **preset_weights(preset, LAYOUT))).ztsnr is True


@pytest.mark.parametrize(("models", "effect"), [((V, ZT), "delta"), ((V, V, ZT), "sum")])
def test_no_preset_is_named_where_none_keeps_ztsnr(models: tuple[InputPrediction, ...], effect: str) -> None:
    told_so = judge(models, effect, weights(0.5)).notices[0]
    assert told_so.level == "warning" and told_so.preset is None and "preset" not in told_so.text


def test_unknown_ztsnr_is_said() -> None:
    unknown = InputPrediction("maybe", "v_prediction", None)
    found = judge((V, unknown), "sum", weights(0.5))
    assert "maybe" in found.notices[0].text and "unknown" in found.notices[0].text


@pytest.mark.parametrize(
    ("models", "alpha", "wanted", "level"),
    [
        ((V, ZT, V), 1.0, True, "info"),
        ((V, ZT, V), 0.7, True, "warning"),
        ((V, ZT, V), 0.3, False, "warning"),
        ((ZT, V, ZT), 1.0, False, "info"),
        ((ZT, ZT, V), 1.0, True, None),
        ((V, ZT, ZT), 1.0, False, None),
    ],
)
def test_add_difference_carries_ztsnr(
    models: tuple[InputPrediction, ...], alpha: float, wanted: bool, level: str | None
) -> None:
    found = judge(models, "difference", weights(alpha))
    assert found.type == "v_prediction" and found.ztsnr is wanted
    assert [one.level for one in found.notices] == ([level] if level else [])


def test_notices_and_errors_speak_japanese() -> None:
    mixed = judge((V, ZT), "sum", weights(0.5)).notices[0]
    assert mixed.said("ja") != mixed.text and mixed.said("en") == mixed.text == mixed.said("fr")
    assert "OUT00-OUT08" in mixed.said("ja") and "@" not in mixed.said("ja")
    with pytest.raises(PredictionMixError) as caught:
        judge((EPS, ZT), "sum", weights(0.5))
    message, remedy = caught.value.in_language("ja")
    assert "v予測" in message and "epsilon 予測" in message and "OUT_FROM_B" in remedy
    assert caught.value.in_language("en") == (caught.value.message, caught.value.remedy)
    assert Notice("info", "plain").said("ja") == "plain"
    assert MergeError("one", "two").in_language("ja") == ("one", "two")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("name", [*NOTICES, *ERRORS])
def test_every_sentence_has_both_languages_with_the_same_places(name: str) -> None:
    pairs = [NOTICES[name]] if name in NOTICES else list(ERRORS[name])
    for english, japanese in pairs:
        assert placeholders(english) == placeholders(japanese) and english.isprintable()
        assert any(ord(letter) > 0x3000 for letter in japanese)


@pytest.mark.parametrize("method", ["triple_sum", "sum_twice"])
def test_a_third_model_that_has_no_part_is_not_judged(method: str, tmp_path: Path) -> None:
    a, b = (write_model(tmp_path / f"{seed}.safetensors", Model(seed=seed)) for seed in (1, 2))
    v = write_model(tmp_path / "v.safetensors", Model(seed=3, markers=("v_pred",)))
    request = MergeRequest((a, b, v), method, tmp_path / "o.safetensors", {"alpha": 0.5, "beta": 0.0})
    assert plan_merge(request).verdict.type == "epsilon"
    blocks = {"beta": {"OUT03": 0.1}}
    with pytest.raises(PredictionMixError):
        plan_merge(MergeRequest((a, b, v), method, tmp_path / "o.safetensors", request.parameters, blocks))
