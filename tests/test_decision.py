"""From a report and an override to what a host is told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, get_args

import pytest

from modelsmith.decision import ConfigKey, Override, PredictionChoice, ZtsnrChoice, decide
from modelsmith.identify.report import Evidence, Prediction, Report

MARKER = Evidence("v_pred", "tensor v_pred", "strong", "v_prediction")


def report(prediction: str = "epsilon", ztsnr: bool | None = False, **fields: Any) -> Report:
    evidence = (MARKER,) if prediction == "v_prediction" else ()
    found = Prediction(prediction, ztsnr, evidence=evidence)  # type: ignore[arg-type]
    base = Report("m.safetensors", "checkpoint", "sdxl", ("sdxl",), "base", found)
    return replace(base, **fields)


@pytest.mark.parametrize(
    ("found", "prediction", "ztsnr"),
    [
        (report(), "epsilon", False),
        (report("v_prediction", True), "v_prediction", True),
        (report("v_prediction", False), "v_prediction", False),
        (report("v_prediction", None), "v_prediction", False),
        (report("epsilon", True), "epsilon", False),
        (report("undetermined", None, architecture="sd2"), None, False),
        (report("edm_v_prediction"), None, False),
        (report("edm"), None, False),
        (report("flow", architecture="flux1"), None, False),
        (report("epsilon", architecture="kolors"), None, False),
        (report("v_prediction", True, architecture=None, candidates=("sd1", "sd2")), None, False),
        (report("v_prediction", True, error="truncated"), None, False),
    ],
)
def test_the_evidence_decides(found: Report, prediction: str | None, ztsnr: bool) -> None:
    decision = decide(found)
    assert (decision.prediction, decision.ztsnr) == (prediction, ztsnr)
    assert decision.reasons


@pytest.mark.parametrize(
    ("prediction", "ztsnr"), list(itertools.product(get_args(PredictionChoice), get_args(ZtsnrChoice)))
)
@pytest.mark.parametrize("found", [report(), report("v_prediction", True), report("v_prediction", None)])
def test_the_override_goes_before_the_evidence(found: Report, prediction: PredictionChoice, ztsnr: ZtsnrChoice) -> None:
    decision = decide(found, Override(prediction, ztsnr))
    if prediction != "auto":
        assert decision.prediction == prediction
        assert decision.source == "override"
    else:
        assert decision.prediction == found.prediction.type
    if ztsnr != "auto":
        assert decision.ztsnr == (ztsnr == "on")
    else:
        assert decision.ztsnr == (decision.prediction == "v_prediction" and found.prediction.zero_terminal_snr is True)


def test_an_override_decides_what_the_file_leaves_open() -> None:
    found = report("undetermined", None, architecture="sd2", variant="base-or-768v")
    decision = decide(found, Override(prediction="v_prediction"))
    assert decision.prediction == "v_prediction"
    assert decision.config == ConfigKey("sd2", v_prediction=True)


def test_flow_models_take_no_override() -> None:
    found = report("flow", architecture="flux1")
    assert decide(found, Override("v_prediction", "on")).prediction is None


def test_switched_off_means_off() -> None:
    decision = decide(report("v_prediction", True), Override("v_prediction", "on"), enabled=False)
    assert (decision.prediction, decision.ztsnr, decision.config) == (None, False, None)


def test_a_conflict_is_said() -> None:
    found = report("v_prediction", True)
    said = decide(replace(found, prediction=replace(found.prediction, conflict=True)))
    assert any("contradicts itself" in reason for reason in said.reasons)
    assert not any("contradicts itself" in reason for reason in decide(found).reasons)


@pytest.mark.parametrize(
    ("architecture", "variant", "base"),
    [
        ("sd1", "v1", "sd1"),
        ("sd1", "inpainting", "sd1-inpainting"),
        ("sd2", "768v", "sd2"),
        ("sd2", "depth", "sd2-depth"),
        ("sd2", "unclip-h", "sd2-unclip-h"),
        ("sdxl", "base", "sdxl"),
        ("sdxl", "inpainting", "sdxl-inpainting"),
        ("sdxl-refiner", "refiner", "sdxl-refiner"),
        ("sd1", "instruct-pix2pix", "sd1-pix2pix"),
        ("sdxl", "instruct-pix2pix", None),
        ("sdxl", "ssd-1b", None),
        ("sd2", "x4-upscaler", None),
    ],
)
def test_the_config_follows_the_variant(architecture: str, variant: str, base: str | None) -> None:
    config = decide(report(architecture=architecture, variant=variant)).config
    assert (config.base if config else None) == base
