"""A part of another file in this one: with its markers, its schedule, in the names of a checkpoint, of one family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from convert.helpers import loaded, metadata_of, same_bits, saved
from host import checkpoints
from host.checkpoints import SD1, SD2, SDXL, Recipe, write, write_vae
from modelsmith.convert.jobs import ConvertJob, convert, plan_convert
from modelsmith.convert.prune import PruneOptions
from modelsmith.errors import UsageError
from modelsmith.identify import identify
from modelsmith.markers import LAST_ALPHA

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "VOCABULARY", 64)  # most of the bytes otherwise
        write(folder, Recipe("sdxl", SDXL, text_layers=1))
        write(folder, Recipe("sdxl-v", SDXL, text_layers=1, markers=("v_pred", "ztsnr"), seed=1,
                             metadata={"modelspec.prediction_type": "v"}))  # fmt: skip
        write(folder, Recipe("sd1", SD1, text_layers=1))
        write(folder, Recipe("sd2", SD2, text_layers=1))
        write_vae(folder, "vae")
    return folder


def _converted(source: Path, target: Path, job: ConvertJob) -> Path:
    plan = plan_convert(source, job)
    result = convert(source, target, job)
    assert plan.tensors_out == len(_names(target)) and plan.notes == result.notes
    return target


def _names(path: Path) -> set[str]:
    with safe_open(str(path), "pt") as file:
        return set(file.keys())


def test_a_unet_brings_its_prediction(models: Path, tmp_path: Path) -> None:
    into = ConvertJob(put=(("unet", models / "sdxl-v.safetensors"),))
    made = _converted(models / "sdxl.safetensors", tmp_path / "a.safetensors", into)
    assert {"v_pred", "ztsnr"} <= _names(made)
    assert metadata_of(made)["modelspec.prediction_type"] == "v"
    assert identify(made).prediction.type == "v_prediction"
    back = ConvertJob(put=(("unet", models / "sdxl.safetensors"),))
    plain = _converted(models / "sdxl-v.safetensors", tmp_path / "b.safetensors", back)
    assert not {"v_pred", "ztsnr"} & _names(plain) and "modelspec.prediction_type" not in metadata_of(plain)
    assert identify(plain).prediction.type == "epsilon"
    assert any("the markers (v_pred, ztsnr) follow" in note for note in plan_convert(made, back).notes)


def test_what_says_how_the_unet_predicts_goes_with_it(models: Path, tmp_path: Path) -> None:
    source = models / "sdxl-v.safetensors"
    rest = _converted(source, tmp_path / "a.safetensors", ConvertJob(drop=("unet",)))
    assert not any(name.startswith(UNET) or name in ("v_pred", "ztsnr") for name in _names(rest))
    assert "modelspec.prediction_type" not in metadata_of(rest)
    vae = _converted(source, tmp_path / "b.safetensors", ConvertJob(only="vae"))
    assert metadata_of(vae) == {}
    alone = _converted(source, tmp_path / "c.safetensors", ConvertJob(only="unet"))
    assert {"v_pred", "ztsnr"} <= _names(alone) and metadata_of(alone) == {"modelspec.prediction_type": "v"}


@pytest.mark.parametrize("job", [ConvertJob(only="unet"), ConvertJob(layout="ldm"), ConvertJob(prune=PruneOptions())])
def test_the_last_alpha_outlives_the_schedule(tmp_path: Path, job: ConvertJob) -> None:
    tensors = {UNET + "input_blocks.0.0.weight": torch.randn(4, 4, 3, 3),
               UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.randn(4, 2048),
               "alphas_cumprod": torch.linspace(1, 0, 1000)}  # fmt: skip
    made = _converted(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", job)
    assert "alphas_cumprod" not in _names(made) and metadata_of(made)[LAST_ALPHA] == "0.0"


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_bare_unet_becomes_a_checkpoint(models: Path, tmp_path: Path, layout: str) -> None:
    """Whichever names it has, and in fp8 with scales too: hosts look for its parts under their prefixes."""
    source = models / "sd1.safetensors"
    bare = _converted(source, tmp_path / "u.safetensors", ConvertJob(only="unet", layout="diffusers"))
    if layout == "ldm":
        bare = _converted(bare, tmp_path / "l.safetensors", ConvertJob(layout="ldm"))
    assert not any(name.startswith(UNET) for name in _names(bare))
    job = ConvertJob(put=(("te", source), ("vae", source)))
    made = _converted(bare, tmp_path / "a.safetensors", job)
    whole, before = loaded(made), loaded(source)
    assert set(whole) == set(before)
    assert all(same_bits(whole[name], before[name]) for name in whole)
    scaled = _converted(bare, tmp_path / "s.safetensors", ConvertJob("fp8_scaled"))
    again = loaded(_converted(scaled, tmp_path / "t.safetensors", job))
    assert set(again) == set(whole)
    assert all(torch.allclose(again[name].float(), whole[name].float(), atol=0.02) for name in whole)


def test_only_what_is_exchanged_changes(models: Path, tmp_path: Path) -> None:
    """A UNet in scaled fp8 stays so where a VAE is put in."""
    source = _converted(models / "sdxl.safetensors", tmp_path / "a.safetensors", ConvertJob("unet=fp8_scaled"))
    made = loaded(
        _converted(source, tmp_path / "b.safetensors", ConvertJob(put=(("vae", models / "vae.safetensors"),)))
    )
    before, vae = loaded(source), loaded(models / "vae.safetensors")
    assert set(made) == set(before)
    for name, value in made.items():
        inner = name.removeprefix("first_stage_model.")
        assert same_bits(value, before[name] if inner == name else vae[inner]), name


def test_a_vae_of_another_latent_space_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is one of SDXL, and .*sd1") as caught:
        convert(models / "sd1.safetensors", tmp_path / "a.safetensors",
                ConvertJob(put=(("vae", models / "sdxl.safetensors"),)))  # fmt: skip
    assert "all the same" in caught.value.remedy and not list(tmp_path.iterdir())
    convert(models / "sd1.safetensors", tmp_path / "b.safetensors",
            ConvertJob(put=(("vae", models / "sd2.safetensors"),)))  # fmt: skip


def test_a_second_copy_does_not_stay_behind(models: Path, tmp_path: Path) -> None:
    """The VAE under ComfyUI's prefix goes where another is put in under the usual one."""
    tensors = {name.replace("first_stage_model.", "vae."): value for name, value in
               loaded(models / "sd1.safetensors").items()}  # fmt: skip
    source = saved(tmp_path / "a.safetensors", tensors)
    job = ConvertJob(put=(("vae", models / "vae.safetensors"),))
    made = _names(_converted(source, tmp_path / "b.safetensors", job))
    assert made == _names(models / "sd1.safetensors")


def _folder(path: Path, parts: dict[str, dict[str, torch.Tensor]]) -> Path:
    for part, tensors in parts.items():
        (path / part).mkdir(parents=True)
        (path / part / "config.json").write_text("{}", encoding="utf-8")
        saved(path / part / "diffusion_pytorch_model.safetensors", tensors)
    return path


def test_folders_of_other_families_give_their_parts(models: Path, tmp_path: Path) -> None:
    network = {"x_embedder.weight": torch.randn(8, 64), "transformer_blocks.0.attn.to_q.weight": torch.randn(8, 8)}
    vae = loaded(models / "vae.safetensors")
    folder = _folder(tmp_path / "flux", {"transformer": network, "vae": vae})
    with pytest.raises(UsageError, match="no checkpoints of one file") as caught:
        convert(folder, tmp_path / "a.safetensors", ConvertJob())
    assert str(folder / "transformer") in caught.value.remedy and str(folder / "vae") in caught.value.remedy
    for source, job in ((folder, ConvertJob(only="unet")), (folder / "transformer", ConvertJob())):
        made = loaded(_converted(source, tmp_path / f"{source.name}.safetensors", job))
        assert set(made) == set(network) and all(same_bits(made[name], network[name]) for name in made)
    made = loaded(_converted(folder, tmp_path / "vae.safetensors", ConvertJob(only="vae")))
    assert set(made) == set(vae)


def test_losses_are_told_by_the_new_names(tmp_path: Path) -> None:
    unet = {"input_blocks.0.0.weight": torch.full((4, 4, 3, 3), 1e6), "out.2.weight": torch.randn(4, 4, 3, 3),
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.randn(4, 768)}  # fmt: skip
    source = saved(tmp_path / "a.safetensors", unet)
    donor = saved(tmp_path / "v.safetensors", {"decoder.mid.block_1.conv1.weight": torch.randn(2, 2, 3, 3)})
    result = convert(source, tmp_path / "b.safetensors", ConvertJob("fp16", put=(("vae", donor),)))
    assert set(result.losses) == {*(UNET + name for name in unet), "first_stage_model.decoder.mid.block_1.conv1.weight"}
    assert result.losses[UNET + "input_blocks.0.0.weight"].clipped == 144
