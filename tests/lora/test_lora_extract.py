"""Extraction: what is put back comes as near to the target as the kept energy says, and always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora.lora_files import load, write_model
from lora.templates import flux_shapes, sd1_shapes, sd2_shapes, sdxl_shapes
from merge.far_device import far, in_far_mode, is_possible
from modelsmith.errors import Cancelled, MergeError, NoSpaceError, UsageError
from modelsmith.files.header import read_header
from modelsmith.lora.bake import BakeRequest, bake
from modelsmith.lora.extract import ExtractRequest, ExtractResult, extract, plan_extract
from modelsmith.lora.factorise import RankChoice, factorise, factorise_on, rank_for_energy
from modelsmith.lora.stack import LoraSpec

UNET = "model.diffusion_model."
SHAPES = {"sd1": sd1_shapes(), "sd2": sd2_shapes(), "sdxl": sdxl_shapes(), "flux": flux_shapes(2, 2)}


def low_rank_change(tensors: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """The same model with a change of a given rank in every weight with two axes or more (fp32 values)."""
    tuned: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or "embedding" in name:
            tuned[name] = tensor.clone()
            continue
        flat = tensor.flatten(1)
        inner = min(rank, *flat.shape)
        change = torch.randn(flat.shape[0], inner) @ torch.randn(inner, flat.shape[1]) * 0.1
        if "in_proj" in name:  # each of query, key, value has the rank, not their stack
            third = flat.shape[0] // 3
            parts = [torch.randn(third, inner) @ torch.randn(inner, flat.shape[1]) * 0.1 for _ in range(3)]
            change = torch.cat(parts)
        tuned[name] = tensor + change.reshape(tensor.shape)
    return tuned


def pair(folder: Path, architecture: str, rank: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    base = write_model(folder / "base.safetensors", SHAPES[architecture], torch.float32)
    tuned = low_rank_change(base, rank)
    save_file(tuned, folder / "tuned.safetensors")
    return base, tuned


def extracted(folder: Path, linear: RankChoice | None, **options: Any) -> ExtractResult:
    options.setdefault("conv", linear)
    options.setdefault("dtype", "fp32")
    return extract(
        ExtractRequest(
            folder / "base.safetensors", folder / "tuned.safetensors", folder / "lora.safetensors", linear, **options
        )
    )


def put_back(folder: Path) -> dict[str, torch.Tensor]:
    request = BakeRequest(
        folder / "base.safetensors", (LoraSpec(folder / "lora.safetensors"),), folder / "out.safetensors"
    )
    result = bake(request)
    assert not result.reports[0].unmatched
    return load(result.path)


@pytest.mark.parametrize("architecture", list(SHAPES))
@pytest.mark.parametrize("method", ["exact", "random"])
def test_a_change_of_low_rank_comes_back_whole(architecture: str, method: Any, tmp_path: Path) -> None:
    _, tuned = pair(tmp_path, architecture, 3)
    result = extracted(tmp_path, RankChoice(4, method=method))
    assert result.energy > 1 - 1e-6
    assert not result.left_out and not result.missing
    out = put_back(tmp_path)
    for name, wanted in tuned.items():
        # fp32 factors: each value within 2e-5 of weights and changes of size about 1
        torch.testing.assert_close(out[name], wanted, rtol=0, atol=2e-5)


def test_the_kept_energy_is_what_is_stated(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base.safetensors", SHAPES["sd1"], torch.float32)
    tuned = {
        name: tensor + 0.1 * torch.randn(tensor.shape) if tensor.dim() > 1 and "embedding" not in name else tensor
        for name, tensor in base.items()
    }
    save_file(tuned, tmp_path / "tuned.safetensors")
    result = extracted(tmp_path, RankChoice(10_000, energy=0.9))
    assert 0.9 <= result.energy < 0.97
    assert len(set(result.ranks)) > 3
    out = put_back(tmp_path)
    change = sum(float((tuned[name] - base[name]).double().square().sum()) for name in base)
    left = sum(float((tuned[name] - out[name]).double().square().sum()) for name in base)
    assert left / change == pytest.approx(1 - result.energy, rel=1e-3)
    # every module on its own keeps its share, not only the sum
    for name in ("middle_block.1.proj_in", "input_blocks.2.0.in_layers.2"):
        key = f"{UNET}{name}.weight"
        kept = 1 - (tuned[key] - out[key]).norm() ** 2 / (tuned[key] - base[key]).norm() ** 2
        assert kept >= 0.9 - 1e-5


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    pair(tmp_path, "sd1", 6)
    first = extracted(tmp_path, RankChoice(2, method="random", seed=5))
    again = extracted(tmp_path, RankChoice(2, method="random", seed=5), overwrite=True)
    torch.manual_seed(99)
    third = extracted(tmp_path, RankChoice(2, method="random", seed=5), overwrite=True)
    other = extracted(tmp_path, RankChoice(2, method="random", seed=6), overwrite=True)
    assert first.sha256 == again.sha256 == third.sha256 != other.sha256


def test_both_methods_agree_and_none_beats_the_best(tmp_path: Path) -> None:
    """A falling spectrum as trained differences have; the best possible energy comes from torch's own SVD."""
    left, _ = torch.linalg.qr(torch.randn(96, 96, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(160, 96, dtype=torch.float64))
    values = torch.logspace(0, -2, 96, dtype=torch.float64)
    matrix = (left * values @ right.T).float()
    best = float(values[:8].square().sum() / values.square().sum())
    for turned in (matrix, matrix.T.contiguous()):
        for method in ("exact", "random"):
            made = factorise(turned, RankChoice(8, method=method), 1)  # type: ignore[arg-type]
            left_over = float((turned - made.up @ made.down).double().norm() ** 2 / turned.double().norm() ** 2)
            assert left_over == pytest.approx(1 - made.energy, abs=1e-6)
            assert best - 1e-4 <= made.energy <= best + 1e-6


def test_rank_for_energy() -> None:
    squares = torch.tensor([4.0, 3.0, 2.0, 1.0])
    cases = {0.1: 1, 0.4: 1, 0.41: 2, 0.7: 2, 0.9: 3, 0.95: 4, 1.0: 4}
    assert {energy: rank_for_energy(squares, energy, 9) for energy in cases} == cases
    assert rank_for_energy(squares, 1.0, 2) == 2


def test_clamping_bounds_the_factors(tmp_path: Path) -> None:
    pair(tmp_path, "sd1", 6)
    extracted(tmp_path, RankChoice(4, clamp=0.9))
    plain = load(tmp_path / "lora.safetensors")
    extracted(tmp_path, RankChoice(4), overwrite=True)
    free = load(tmp_path / "lora.safetensors")
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    assert plain[name].abs().max() < free[name].abs().max()


def test_names_ranks_and_metadata_are_kohyas(tmp_path: Path) -> None:
    pair(tmp_path, "sdxl", 3)
    extracted(tmp_path, RankChoice(4), conv=RankChoice(2), dtype="fp16")
    header = read_header(tmp_path / "lora.safetensors")
    down = header.tensors["lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight"]
    up = header.tensors["lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight"]
    assert (down.shape, up.shape, down.dtype) == ((2, 8, 3, 3), (8, 2, 1, 1), "F16")
    attention = header.tensors["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"]
    assert attention.shape == (4, 20)
    assert header.tensors["lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight"].shape == (20, 4)
    metadata = header.metadata
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert (metadata["ss_network_module"], metadata["ss_network_dim"]) == ("networks.lora", "4")
    assert metadata["ss_network_args"] == '{"conv_dim": "2", "conv_alpha": "2.0"}'
    assert metadata["ss_v2"] == "False"


def test_what_no_rank_can_carry_is_listed_or_kept(tmp_path: Path) -> None:
    _, tuned = pair(tmp_path, "sd1", 2)
    norm, bias = f"{UNET}middle_block.1.norm.weight", f"{UNET}middle_block.1.proj_in.bias"
    table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    for name in (norm, bias, table):
        tuned[name] = tuned[name] + 1
    save_file(tuned, tmp_path / "tuned.safetensors")
    assert set(extracted(tmp_path, RankChoice(2)).left_out) == {norm, bias, table}
    assert not extracted(tmp_path, RankChoice(2), differences=True, overwrite=True).left_out
    out = put_back(tmp_path)
    for name in tuned:
        torch.testing.assert_close(out[name], tuned[name], rtol=0, atol=2e-5)


def test_parts_and_threshold(tmp_path: Path) -> None:
    pair(tmp_path, "sd1", 2)
    extracted(tmp_path, RankChoice(2), components="unet")
    assert all(name.startswith("lora_unet_") for name in load(tmp_path / "lora.safetensors"))
    extracted(tmp_path, RankChoice(2), components="text", overwrite=True)
    assert all(name.startswith("lora_te_") for name in load(tmp_path / "lora.safetensors"))
    result = extracted(tmp_path, RankChoice(2), conv=None, overwrite=True)
    assert any(name.endswith("in_layers.2.weight") for name in result.left_out)
    with pytest.raises(MergeError, match="does not differ"):
        extracted(tmp_path, RankChoice(2), threshold=100.0, overwrite=True)


def test_what_must_be_refused(tmp_path: Path) -> None:
    base, tuned = pair(tmp_path, "sd1", 2)
    with pytest.raises(UsageError, match="rank of 0"):
        extracted(tmp_path, RankChoice(0))
    with pytest.raises(UsageError, match="energy"):
        extracted(tmp_path, RankChoice(2, energy=1.5))
    name = f"{UNET}middle_block.1.proj_in.weight"
    save_file(tuned | {name: torch.zeros(3, 3)}, tmp_path / "tuned.safetensors")
    with pytest.raises(MergeError, match=r"middle_block\.1\.proj_in\.weight.*\[32, 32, 1, 1\].*\[3, 3\]"):
        extracted(tmp_path, RankChoice(2))
    save_file(tuned | {name: torch.full((32, 32, 1, 1), float("nan"))}, tmp_path / "tuned.safetensors")
    with pytest.raises(MergeError, match="NaN"):
        extracted(tmp_path, RankChoice(2))
    save_file(base, tmp_path / "tuned.safetensors")
    with pytest.raises(MergeError, match="does not differ"):
        extracted(tmp_path, RankChoice(2))
    with pytest.raises(Cancelled):
        request = ExtractRequest(
            tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "x.safetensors", RankChoice(2)
        )
        extract(request, cancelled=lambda: True)
    assert not (tmp_path / "lora.safetensors").exists() and not (tmp_path / "x.safetensors").exists()


def test_a_bare_unet_against_a_checkpoint(tmp_path: Path) -> None:
    _, tuned = pair(tmp_path, "sd1", 2)
    bare = {name.removeprefix(UNET): value for name, value in tuned.items() if name.startswith(UNET)}
    save_file(bare, tmp_path / "tuned.safetensors")
    result = extracted(tmp_path, RankChoice(4))
    assert result.energy > 1 - 1e-6
    assert result.missing and all(name.startswith("cond_stage_model.") for name in result.missing)


def scaled_fp8(state: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """The same model with some of its weights in fp8, beside their scales."""
    found = dict(state) | {f"{UNET}scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for name in names:
        scale = state[name].abs().max() / 448
        found[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        found[name.removesuffix(".weight") + ".scale_weight"] = scale
    return found


def test_quantised_checkpoints_are_decoded(tmp_path: Path) -> None:
    """From a model in scaled fp8 the same LoRA comes as from its decoded values, on either side."""
    base = write_model(tmp_path / "base.safetensors", SHAPES["sd1"], torch.float32)
    names = [name for name, value in base.items() if name.startswith(UNET) and "attn" in name and value.dim() == 2]
    packed = scaled_fp8(base, names)
    save_file(packed, tmp_path / "packed.safetensors")
    plain = base | {
        name: packed[name].float() * packed[name.removesuffix(".weight") + ".scale_weight"] for name in names
    }
    save_file(plain, tmp_path / "tuned.safetensors")
    wanted = extracted(tmp_path, RankChoice(4))
    assert wanted.modules == len(names)
    for one, other in (("base", "packed"), ("packed", "base")):
        paths = (tmp_path / f"{name}.safetensors" for name in (one, other))
        found = extract(ExtractRequest(*paths, tmp_path / f"of-{one}.safetensors", RankChoice(4), dtype="fp32"))
        assert (found.modules, found.energy, found.left_out) == (len(names), pytest.approx(wanted.energy), ())
        ours, theirs, sign = load(found.path), load(wanted.path), 1 if one == "base" else -1
        for name in (name for name in theirs if name.endswith("lora_up.weight")):
            down = name.replace("lora_up", "lora_down")
            torch.testing.assert_close(ours[name] @ ours[down], sign * theirs[name] @ theirs[down], rtol=0, atol=1e-5)


def test_a_plan_says_what_will_come_of_it(tmp_path: Path) -> None:
    pair(tmp_path, "sd2", 9)
    request = ExtractRequest(
        tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "lora.safetensors", RankChoice(4),
        RankChoice(3),
    )  # fmt: skip
    plan = plan_extract(request)
    assert (plan.architecture, plan.missing) == ("sd2", ())
    result = extract(request)
    tensors = load(result.path).values()
    # Every module differs in more than the rank, so that the most is what it becomes.
    assert plan.most_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert plan.modules == result.modules


def test_nothing_is_read_for_a_target_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "sd1", 2)
    monkeypatch.setattr("modelsmith.lora.extract._Pair.open", lambda _: pytest.fail("values were asked for"))
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    for output, overwrite, told in (
        (tmp_path / "taken.safetensors", False, "exists already"),
        (tmp_path / "lora.pt", False, "safetensors"),
        (tmp_path / "nowhere" / "lora.safetensors", False, "folder"),
        (base, True, "source itself"),
    ):
        request = ExtractRequest(base, tuned, output, RankChoice(2), overwrite=overwrite)
        with pytest.raises(UsageError, match=told):
            extract(request)
    with pytest.raises(UsageError, match="precision"):
        extract(ExtractRequest(base, tuned, tmp_path / "lora.safetensors", RankChoice(2), dtype="int8"))
    monkeypatch.setattr("modelsmith.files.output.free_bytes", lambda _: 1000)
    with pytest.raises(NoSpaceError, match="1,000 bytes free"):
        extract(ExtractRequest(base, tuned, tmp_path / "lora.safetensors", RankChoice(2)))
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"


def test_progress_goes_to_the_end_and_knows_no_way_back(tmp_path: Path) -> None:
    pair(tmp_path, "sd1", 2)
    told: list[tuple[int, int]] = []
    request = ExtractRequest(
        tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "lora.safetensors", RankChoice(2)
    )
    extract(request, lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "sd1", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU"):
        extracted(tmp_path, RankChoice(2), device="cuda")
    assert extracted(tmp_path, RankChoice(2), device="auto").modules


def test_a_device_without_memory_leaves_the_work_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "sd1", 2)
    wanted = extracted(tmp_path, RankChoice(2)).sha256
    whole, asked = torch.Tensor.to, [0]

    def full(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if arguments and arguments[0] == torch.device("cuda"):
            asked[0] += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(tensor, *arguments, **named)

    monkeypatch.setattr("modelsmith.lora.extract.find_gpu", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "to", full)
    found = extracted(tmp_path, RankChoice(2), device="cuda", overwrite=True)
    assert found.sha256 == wanted and asked[0] == found.modules


@pytest.mark.skipif(not is_possible(), reason="before torch 2.9, or with a GPU")
@pytest.mark.parametrize("method", ["exact", "random"])
@pytest.mark.parametrize("clamp", [None, 0.9])
def test_a_decomposition_stays_on_the_device_that_is_not_the_cpu(method: Any, clamp: float | None) -> None:
    """On a simulated device, which raises where something of the CPU's is mixed in; the values are the CPU's."""
    for shape in ((48, 96), (96, 48)):
        matrix = torch.randn(shape)
        for choice in (RankChoice(4, method=method, clamp=clamp), RankChoice(40, energy=0.8, clamp=clamp)):
            wanted = factorise(matrix, choice, 3)
            found = in_far_mode(factorise_on)(far(), matrix, choice, 3)
            assert found.energy == wanted.energy and type(found.up) is type(found.down) is torch.Tensor
            assert torch.equal(found.up, wanted.up) and torch.equal(found.down, wanted.down)
