"""Pruning: what goes, what stays, and what the averages become."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.helpers import loaded, metadata_of, same_bits, saved, tiny_checkpoint
from modelsmith.convert.casts import LossBook
from modelsmith.convert.model import open_model
from modelsmith.convert.prune import LAST_ALPHA, PruneOptions, PruneReport, ema_name, prune
from modelsmith.convert.write import write_model
from modelsmith.errors import BadFileError

UNET = "model.diffusion_model."


def _training_file() -> dict[str, torch.Tensor]:
    tensors = tiny_checkpoint()
    for name in [name for name in tensors if name.startswith(UNET)]:
        tensors[ema_name(name)] = tensors[name] + 1
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
    tensors["betas"] = torch.zeros(1000)
    tensors["first_stage_model.loss.logvar"] = torch.zeros(())
    for marker in ("v_pred", "ztsnr", "edm_vpred.sigma_max", UNET + "__x0__"):
        tensors[marker] = torch.zeros(() if "." in marker else (0,))
    return tensors


def _run(source: Path, target: Path, options: PruneOptions) -> tuple[dict[str, torch.Tensor], PruneReport]:
    with open_model(source) as model:
        report = prune(model, options)
        write_model(model, target, LossBook())
    return loaded(target), report


def test_the_name_of_an_average() -> None:
    assert ema_name(UNET + "input_blocks.0.0.weight") == "model_ema.diffusion_modelinput_blocks00weight"


def test_leftovers_go_and_markers_stay(tmp_path: Path) -> None:
    tensors = _training_file()
    source = saved(tmp_path / "a.safetensors", tensors, {"modelspec.title": "T"})
    out, report = _run(source, tmp_path / "b.safetensors", PruneOptions())
    kept = {name for name in tiny_checkpoint() if name != "alphas_cumprod"}
    assert set(out) == kept | {"v_pred", "ztsnr", "edm_vpred.sigma_max", UNET + "__x0__"}
    assert all(same_bits(out[name], tensors[name]) for name in out)
    assert report.dropped == {"ema": 6, "schedule": 2, "training": 1}
    sizes = [sum(value.nbytes for value in part.values()) for part in (tensors, out)]
    assert [report.bytes_before, report.bytes_after] == sizes
    metadata = metadata_of(tmp_path / "b.safetensors")
    assert float(metadata[LAST_ALPHA]) == float(tensors["alphas_cumprod"][-1])
    assert metadata["modelspec.title"] == "T"


def test_averages_as_weights(tmp_path: Path) -> None:
    tensors = _training_file()
    source = saved(tmp_path / "a.safetensors", tensors)
    out, _ = _run(source, tmp_path / "b.safetensors", PruneOptions(ema="use"))
    names = [name for name in out if name.startswith(UNET) and "__x0__" not in name]
    assert len(names) == 4
    assert all(same_bits(out[name], tensors[name] + 1) for name in names)
    assert not any(name.startswith("model_ema") for name in out)


def test_averages_kept_and_averages_missing(tmp_path: Path) -> None:
    tensors = _training_file()
    out, _ = _run(saved(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors", PruneOptions(ema="keep"))
    assert sum(name.startswith("model_ema.") for name in out) == 6
    del tensors[ema_name(UNET + "input_blocks.0.0.bias")]
    source = saved(tmp_path / "c.safetensors", tensors)
    with open_model(source) as model, pytest.raises(BadFileError, match=r"1 of 4 .*input_blocks\.0\.0\.bias"):
        prune(model, PruneOptions(ema="use"))
    only = {name: value for name, value in tensors.items() if name.startswith("model_ema.")}
    with open_model(saved(tmp_path / "d.safetensors", only)) as model, pytest.raises(BadFileError, match="EMA"):
        prune(model, PruneOptions())
    strange = saved(tmp_path / "e.safetensors", {**only, "model_ema.diffusion_modelx": torch.zeros(1)})
    with open_model(strange) as model, pytest.raises(BadFileError, match="belongs to no UNet"):
        prune(model, PruneOptions(ema="use"))


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_a_file_of_averages_alone_becomes_a_unet(tmp_path: Path, family: str) -> None:
    """Dots cannot be guessed back, but the names of the known UNets are known."""
    from host import checkpoints

    names = [name for name, _ in checkpoints.unet(getattr(checkpoints, family), 64)]
    values = {name: torch.full((1,), float(number)) for number, name in enumerate(names)}
    source = saved(tmp_path / "a.safetensors", {ema_name(name): value for name, value in values.items()})
    out, _ = _run(source, tmp_path / "b.safetensors", PruneOptions(ema="use"))
    assert set(out) == set(names) and all(same_bits(out[name], values[name]) for name in names)


def test_training_state_of_a_ckpt_goes(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    state = {"state": {0: {"exp_avg": torch.zeros(3)}}}
    torch.save({"state_dict": tensors, "optimizer_states": [state], "epoch": 3}, tmp_path / "a.ckpt")
    with open_model(tmp_path / "a.ckpt") as model:
        assert model.notes == ["optimizer_states beside the weights will not be written"]
    out, _ = _run(tmp_path / "a.ckpt", tmp_path / "b.safetensors", PruneOptions())
    assert set(out) == set(tensors) - {"alphas_cumprod"}


def test_every_name_of_the_sd1_unet_has_its_own_average() -> None:
    from host.checkpoints import SD1, unet

    names = [f"{UNET}{name.removeprefix(UNET)}" for name, _ in unet(SD1, 32)]
    averages = {ema_name(name) for name in names}
    assert len(names) == len(averages) == 686
    assert not any("." in average.removeprefix("model_ema.") for average in averages)
