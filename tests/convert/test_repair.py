"""Repair: every fault is found with its evidence, mended exactly, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.helpers import loaded, metadata_of, same_bits, saved, tiny_checkpoint
from modelsmith.convert.casts import LossBook
from modelsmith.convert.components import UNET_PREFIX
from modelsmith.convert.jobs import repair
from modelsmith.convert.model import open_model
from modelsmith.convert.precision import parse_precision, set_precision
from modelsmith.convert.repair import Finding, RepairOptions, find_faults, mend
from modelsmith.convert.write import write_model
from modelsmith.demo import write_demos
from modelsmith.errors import UsageError
from modelsmith.identify import Evidence, Prediction, Report, identify
from modelsmith.japanese import in_japanese

IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
EPS = Prediction("epsilon", False, False, (Evidence("family", "SD1 models are so", "default", "epsilon"),))
SD1 = Report("a", kind="checkpoint", architecture="sd1", candidates=("sd1",), prediction=EPS)


def _looked(source: Path, target: Path, report: Report, options: RepairOptions | None = None) -> list[Finding]:
    with open_model(source) as model:
        findings = find_faults(model, report, options)
        if mend(model, findings):
            write_model(model, target, LossBook())
    return findings


def _ids(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**tiny_checkpoint(), IDS: values.reshape(1, 77)}


def test_a_sound_file_has_no_faults(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    assert _looked(source, tmp_path / "b.safetensors", SD1) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (torch.arange(77.0), "Add difference merge before January 2023"),
        (((1 - 0.41) * torch.arange(77.0) + 0.41 * torch.arange(77.0)).long(), "cut to whole numbers"),
        (torch.arange(77.0).half() * 0.58, "left as F16"),
        (torch.full((77,), torch.nan), "77 of 77"),
        (torch.arange(77, dtype=torch.int32), "I32 instead of I64"),
    ],
)
def test_position_ids_are_put_right(tmp_path: Path, values: torch.Tensor, says: str) -> None:
    tensors = _ids(values)
    if values.dtype == torch.int64:
        assert int((values != torch.arange(77)).sum()), "the merge must have damaged some"
    findings = _looked(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", SD1)
    assert [finding.id for finding in findings] == ["position-ids"]
    assert says in findings[0].what
    out = loaded(tmp_path / "b.safetensors")
    assert same_bits(out.pop(IDS), torch.arange(77).reshape(1, 77))
    assert all(same_bits(out[name], tensors[name]) for name in out)


def _is_japanese(text: str) -> bool:
    return any("\u3040" <= letter <= "\u9fff" for letter in text)


def test_findings_and_what_is_noted_speak_japanese(tmp_path: Path) -> None:
    tensors = {name.replace("transformer.text_model.", "transformer."): v for name, v in tiny_checkpoint().items()}
    tensors |= {"v_pred": torch.empty(0), "vae.decoder.conv_in.bias": torch.zeros(8)}
    tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77).reshape(1, 77).half() * 0.58
    metadata = {"modelspec.prediction_type": "v", "modelspec.architecture": "stable-diffusion-xl-v1-base"}
    with open_model(saved(tmp_path / "a.safetensors", {**tensors, KEY: torch.randn(4, 768)}, metadata)) as model:
        findings = find_faults(model, SD1)
        assert {finding.id for finding in findings} == {
            "text-model", "position-ids", "marker-stray", "metadata-prediction", "metadata-architecture", "twice",
        }  # fmt: skip
        for finding in findings:
            for said in (finding.what, finding.evidence, finding.remedy):
                assert _is_japanese(in_japanese(said)), said
        assert mend(model, findings) == len(findings)
        assert [in_japanese(note) for note in model.notes if "marker" in note] == [
            "マーカー v_pred がこのモデルに合いません: 取り除きます"
        ]
    evidence = next(finding.evidence for finding in findings if finding.id == "marker-stray")
    assert in_japanese(evidence) == "epsilon 予測のモデルです（モデルの系統: SD1 models are so（推定））"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", _ids(torch.arange(77.0)))
    before = source.read_bytes()
    with open_model(source) as model:
        names = list(model.tensors)
        assert find_faults(model, SD1)
        assert list(model.tensors) == names and model.tensors[IDS].dtype == "F32"
    assert source.read_bytes() == before


def test_early_text_encoder_names(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    old = {name.replace("transformer.text_model.", "transformer."): value for name, value in tensors.items()}
    findings = _looked(saved(tmp_path / "a.safetensors", old), tmp_path / "b.safetensors", SD1)
    assert [finding.id for finding in findings] == ["text-model"]
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == set(tensors) and all(same_bits(out[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("prefix", ["", "text_encoders.clip_l.transformer."])
def test_text_encoders_saved_by_transformers_5(tmp_path: Path, prefix: str) -> None:
    short = "cond_stage_model.transformer.text_model."
    right = {prefix + "text_model." + name[len(short) :]: v for name, v in tiny_checkpoint().items() if short in name}
    old = {name.replace("text_model.", ""): value for name, value in right.items()}
    report = Report("a", kind="text_encoder")
    findings = _looked(saved(tmp_path / "a.safetensors", old), tmp_path / "b.safetensors", report)
    assert [finding.id for finding in findings] == ["text-model"]
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == set(right) and all(same_bits(out[name], right[name]) for name in right)


def _sdxl(*evidence: Evidence, zero: bool = False, conflict: bool = False) -> Report:
    kind = "v_prediction" if any(piece.says == "v_prediction" for piece in evidence) else "epsilon"
    return Report(
        "a",
        kind="checkpoint",
        architecture="sdxl",
        candidates=("sdxl",),
        prediction=Prediction(kind, zero, conflict, evidence),
    )


METADATA_V = Evidence("metadata", "modelspec.prediction_type: v", "strong", "v_prediction")
YAML_ZERO = Evidence("yaml", "zero terminal SNR: true", "strong", "ztsnr")


def test_missing_markers_are_added_with_their_evidence(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    findings = _looked(source, tmp_path / "b.safetensors", _sdxl(METADATA_V, YAML_ZERO, zero=True))
    assert [finding.what for finding in findings] == [f"the marker {name} is missing" for name in ("v_pred", "ztsnr")]
    assert "modelspec.prediction_type: v" in findings[0].evidence and "yaml" in findings[1].evidence
    out = loaded(tmp_path / "b.safetensors")
    assert out["v_pred"].shape == (0,) and out["ztsnr"].shape == (0,)
    findings = _looked(source, tmp_path / "c.safetensors", _sdxl(METADATA_V))
    assert len(findings) == 1 and "ztsnr" not in loaded(tmp_path / "c.safetensors")


def test_stray_and_hidden_markers(tmp_path: Path) -> None:
    tensors = {**tiny_checkpoint(), "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    findings = _looked(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", SD1)
    assert [finding.id for finding in findings] == ["marker-stray"] * 2
    assert not {"v_pred", "ztsnr"} & set(loaded(tmp_path / "b.safetensors"))
    tensors = {**tiny_checkpoint(), "model.diffusion_model.v_pred": torch.empty(0)}
    marker = Evidence("marker tensor", "v_pred", "strong", "v_prediction")
    findings = _looked(saved(tmp_path / "c.safetensors", tensors), tmp_path / "d.safetensors", _sdxl(marker))
    assert [finding.id for finding in findings] == ["marker-hidden"]
    out = loaded(tmp_path / "d.safetensors")
    assert "v_pred" in out and "model.diffusion_model.v_pred" not in out


def test_conflicts_are_left_to_the_user(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", {**tiny_checkpoint(), "v_pred": torch.empty(0)},
                   {"modelspec.prediction_type": "v", "modelspec.title": "x"})  # fmt: skip
    report = _sdxl(METADATA_V, Evidence("yaml", "scaling EpsScaling", "strong", "epsilon"), conflict=True)
    findings = _looked(source, tmp_path / "b.safetensors", report)
    assert [finding.remedy for finding in findings] == [""] and not (tmp_path / "b.safetensors").exists()
    findings = _looked(source, tmp_path / "c.safetensors", report, RepairOptions(prediction="epsilon"))
    assert [finding.id for finding in findings] == ["marker-stray", "metadata-prediction"]
    assert "v_pred" not in loaded(tmp_path / "c.safetensors")
    assert metadata_of(tmp_path / "c.safetensors") == {"modelspec.prediction_type": "epsilon", "modelspec.title": "x"}
    with pytest.raises(UsageError, match="ztsnr"):
        _looked(source, tmp_path / "d.safetensors", report, RepairOptions(prediction="velocity"))


@pytest.fixture(scope="module")
def sd1_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """All names of SD1."""
    folder = tmp_path_factory.mktemp("demo")
    return loaded(write_demos(folder)[0])


V, Z = {"v_pred": torch.empty(0)}, {"ztsnr": torch.empty(0)}


@pytest.mark.parametrize("told", ["v", "v+ztsnr", "epsilon"])
@pytest.mark.parametrize("markers", [{}, V, Z, V | Z], ids=["none", "v_pred", "ztsnr", "both"])
@pytest.mark.parametrize("says", ["", "epsilon", "v"])
def test_what_is_said_of_an_sd1_model_is_written(
    tmp_path: Path, sd1_model: dict[str, torch.Tensor], told: str, markers: dict[str, torch.Tensor], says: str
) -> None:
    fields = {"modelspec.prediction_type": says} if says else {}
    source = saved(tmp_path / "a.safetensors", sd1_model | markers, fields)
    repair(source, tmp_path / "b.safetensors", RepairOptions(told))
    mended = tmp_path / "b.safetensors"
    found = identify(mended if mended.exists() else source)
    kind = "epsilon" if told == "epsilon" else "v_prediction"
    assert found.prediction.type == kind and not found.prediction.conflict
    assert found.prediction.zero_terminal_snr in ([True] if told == "v+ztsnr" else [False, None])
    assert not {one.id for one in found.warnings} & {"stray-v-pred", "stray-ztsnr", "prediction-conflict"}
    assert repair(mended if mended.exists() else source, None, RepairOptions(told))[0] == []


def test_what_is_said_of_an_sd2_model_is_written(tmp_path: Path) -> None:
    nothing = Report("a", kind="checkpoint", architecture="sd2", prediction=Prediction("undetermined"))
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    for told, text in (("v", "v"), ("epsilon", "epsilon")):
        (found,) = _looked(source, tmp_path / f"{text}.safetensors", nothing, RepairOptions(told))
        assert (found.id, found.evidence) == ("metadata-prediction", f"you said so ({told})")
        assert metadata_of(tmp_path / f"{text}.safetensors")["modelspec.prediction_type"] == text
    named = {"modelspec.architecture": "stable-diffusion-v2-512/lora"}
    with open_model(saved(tmp_path / "b.safetensors", tiny_checkpoint(), named)) as model:
        mend(model, find_faults(model, nothing, RepairOptions("v")))
        assert model.metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    flow = Report("a", kind="diffusion_model", architecture="flux1", prediction=Prediction("flow"))
    source = saved(tmp_path / "a.safetensors", tiny_checkpoint())
    for report in (flow, Report("a", kind="vae")):
        (found,) = _looked(source, tmp_path / "b.safetensors", report, RepairOptions("v"))
        assert (found.id, found.remedy) == ("prediction-unstated", "") and _is_japanese(in_japanese(found.what))
    assert not (tmp_path / "b.safetensors").exists()


def test_metadata_of_another_family(tmp_path: Path) -> None:
    tensors = {**tiny_checkpoint(), KEY: torch.randn(4, 768)}
    metadata = {"modelspec.architecture": "stable-diffusion-xl-v1-base"}
    with open_model(saved(tmp_path / "a.safetensors", tensors, metadata)) as model:
        findings = find_faults(model, SD1)
        assert findings[0].id == "metadata-architecture" and {finding.id for finding in findings[1:]} <= {"missing"}
        assert mend(model, findings) == 1 and model.metadata == {}


def test_parts_that_are_missing_come_from_another_file(tmp_path: Path) -> None:
    width = torch.randn(4, 768)
    text = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    vae = "first_stage_model.decoder.mid.block_1.conv1.weight"
    whole = {**tiny_checkpoint(), KEY: width, text: torch.randn(9, 768), vae: torch.randn(2, 2, 3, 3)}
    bare = {name: value for name, value in whole.items() if name.startswith("model.")}
    donor = saved(tmp_path / "donor.safetensors", whole)
    source = saved(tmp_path / "a.safetensors", bare)
    assert [f.what for f in _looked(source, tmp_path / "x.safetensors", SD1)] == [
        "the vae is missing",
        "the clip_l is missing",
    ]
    _looked(source, tmp_path / "b.safetensors", SD1, RepairOptions(complete_from=donor))
    out = loaded(tmp_path / "b.safetensors")
    assert set(out) == set(whole) - {"alphas_cumprod"}
    assert all(same_bits(out[name], whole[name]) for name in out)


def test_a_second_copy_of_a_part_is_dropped(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    twice = {**tensors, "vae.decoder.conv_in.weight": torch.randn(3)}
    findings = _looked(saved(tmp_path / "a.safetensors", twice), tmp_path / "b.safetensors", SD1)
    assert [finding.id for finding in findings] == ["twice"]
    assert set(loaded(tmp_path / "b.safetensors")) == set(tensors)


def test_the_larger_copy_is_not_dropped(tmp_path: Path) -> None:
    """Where the copy that hosts read is the lesser one, nobody but the user can say what is right."""
    tensors = {**tiny_checkpoint(), **{f"vae.decoder.{n}.weight": torch.zeros(1) for n in range(9)}}
    findings = _looked(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", SD1)
    assert [(finding.id, finding.remedy) for finding in findings] == [("twice", "")]
    assert "only 2 with first_stage_model." in findings[0].evidence


@pytest.mark.parametrize("length", [60, 80])
def test_ids_of_another_length(tmp_path: Path, length: int) -> None:
    beside = IDS.replace("position_ids", "position_embedding.weight")
    tensors = {**tiny_checkpoint(), IDS: torch.arange(length)[None], beside: torch.randn(77, 16)}
    findings = _looked(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", SD1)
    assert [finding.what for finding in findings] == [f"{IDS} has {length} positions, and its encoder 77"]
    assert same_bits(loaded(tmp_path / "b.safetensors")[IDS], torch.arange(77)[None])


def test_scaled_weights_of_an_early_encoder_keep_their_scale(tmp_path: Path) -> None:
    """The new name goes to what belongs to a packed weight too: it would be read without its scale otherwise."""
    at = "conditioner.embedders.0.transformer."
    weight = torch.randn(16, 16)
    tensors = {
        at + "embeddings.token_embedding.weight": torch.randn(5, 768),
        at + "encoder.layers.0.mlp.fc1.weight": (weight / 0.5).to(torch.float8_e4m3fn),
        at + "encoder.layers.0.mlp.fc1.scale_weight": torch.tensor(0.5),
    }
    with open_model(saved(tmp_path / "a.safetensors", tensors)) as model:
        assert mend(model, find_faults(model, SD1)) == 1
        book = set_precision(model, parse_precision("fp32"))
        write_model(model, tmp_path / "b.safetensors", book)
    out = loaded(tmp_path / "b.safetensors")
    name = at + "text_model.encoder.layers.0.mlp.fc1.weight"
    assert set(out) == {name, at + "text_model.embeddings.token_embedding.weight"}
    assert same_bits(out[name], tensors[at + "encoder.layers.0.mlp.fc1.weight"].float() * 0.5)


def test_what_the_other_file_has_not_is_left_to_the_user(tmp_path: Path) -> None:
    width = torch.randn(4, 768)
    donor = saved(tmp_path / "d.safetensors", {"decoder.mid.block_1.conv1.weight": torch.randn(2, 2, 3, 3)})
    bare = {UNET_PREFIX + "input_blocks.0.0.weight": torch.randn(4, 4, 3, 3), KEY: width}
    source = saved(tmp_path / "a.safetensors", bare)
    findings = _looked(source, tmp_path / "b.safetensors", SD1, RepairOptions(complete_from=donor))
    assert [(one.what, one.remedy) for one in findings] == [
        ("the vae is missing", "taken from d.safetensors"),
        ("the clip_l is missing", ""),
    ]
    assert "first_stage_model.decoder.mid.block_1.conv1.weight" in loaded(tmp_path / "b.safetensors")
    plain = saved(tmp_path / "u.safetensors", {name[len(UNET_PREFIX) :]: value for name, value in bare.items()})
    assert not _looked(plain, tmp_path / "c.safetensors", SD1)  # a bare UNet is whole as it is
    _looked(plain, tmp_path / "e.safetensors", SD1, RepairOptions(complete_from=donor))
    assert set(loaded(tmp_path / "e.safetensors")) == set(loaded(tmp_path / "b.safetensors"))
