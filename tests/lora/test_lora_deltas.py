"""Each algebra against its definition in fp64, and against LyCORIS where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora.lora_modules import CONV, LINEAR, Made
from modelsmith.files.tensors import open_tensors
from modelsmith.lora import deltas
from modelsmith.lora.modules import Reader, add_rows, by_rows, updated
from modelsmith.lora.parse import read_lora

CASES = [
    *(pytest.param(make, (16, 12), id=f"linear {name}") for name, make in LINEAR.items()),
    *(pytest.param(make, (16, 12, 3, 3), id=f"conv {name}") for name, make in CONV.items()),
]


def apply(made: Made, weight: torch.Tensor, strength: float, folder: Path) -> torch.Tensor:
    path = folder / "one.safetensors"
    save_file({f"lora_unet_x{suffix}": tensor.contiguous() for suffix, tensor in made.tensors.items()}, path)
    file = read_lora(path)
    assert not file.leftover
    with open_tensors(file.header) as source:
        return updated(file.modules[0], Reader(file, source, file.modules[0], weight.dtype), weight, strength)


@pytest.mark.parametrize(("make", "shape"), CASES)
@pytest.mark.parametrize("strength", [1.0, -0.7, 0.0])
def test_against_the_definition(make, shape, strength, tmp_path) -> None:
    made = make(shape)
    weight = torch.randn(shape)
    wanted = made.apply(weight.double(), strength)
    found = apply(made, weight, strength, tmp_path)
    assert found.dtype == torch.float32 and found.shape == weight.shape
    # fp32 throughout: sums of at most 108 products and one inverse of an 8 × 8 matrix.
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=3e-6)
    exact = apply(made, weight.double(), strength, tmp_path)
    torch.testing.assert_close(exact, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_strength_one_changes_and_zero_does_not(make, shape, tmp_path) -> None:
    made = make(shape)
    weight = torch.randn(shape)
    assert not torch.allclose(apply(made, weight, 1.0, tmp_path), weight, atol=1e-3)
    torch.testing.assert_close(apply(made, weight, 0.0, tmp_path), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_row_by_row_equals_whole(make, shape, tmp_path) -> None:
    made = make(shape)
    path = tmp_path / "one.safetensors"
    save_file({f"lora_unet_x{suffix}": tensor.contiguous() for suffix, tensor in made.tensors.items()}, path)
    file = read_lora(path)
    module = file.modules[0]
    weight = torch.randn(shape)
    if not by_rows(module):
        return
    with open_tensors(file.header) as source:
        reader = Reader(file, source, module, torch.float32)
        pieces = [weight[first : first + 5].clone() for first in range(0, 16, 5)]
        for number, piece in enumerate(pieces):
            add_rows(module, reader, piece, 0.5, 5 * number)
        whole = updated(module, reader, weight, 0.5)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)


def test_the_rotation_of_oft_is_orthogonal() -> None:
    weight = torch.randn(16, 12, dtype=torch.float64)
    turned = deltas.rotate(weight, {"oft_blocks": torch.randn(2, 8, 8, dtype=torch.float64)}, 0.0, 1.0)
    torch.testing.assert_close(turned[:8].T @ turned[:8], weight[:8].T @ weight[:8], rtol=1e-9, atol=1e-9)


def test_a_column_of_zeros_stays_zero_in_dora() -> None:
    weight = torch.randn(4, 3)
    weight[:, 1] = 0
    found = deltas.decompose(weight, torch.zeros(4, 3), torch.ones(1, 3), 1.0)
    assert torch.isfinite(found).all() and not found[:, 1].any()


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_against_lycoris(kernel: tuple[int, ...]) -> None:
    functional = pytest.importorskip("lycoris.functional", reason="LyCORIS is not installed")
    rand = torch.randn
    tails = (1,) * len(kernel)
    down, up = rand(4, 12, *kernel), rand(16, 4, *tails)
    wanted = functional.locon.diff_weight(down, up, None, gamma=0.5)
    found = deltas.low_rank({"up": up, "down": down}).reshape(wanted.shape) * 0.5
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    w1d, w1u, w2d, w2u = rand(4, 12, *kernel), rand(16, 4), rand(4, 12, *kernel), rand(16, 4)
    wanted = functional.loha.diff_weight(w1d, w1u, w2d, w2u, None, None, gamma=torch.tensor(0.5))
    factors = {"hada_w1_a": w1u, "hada_w1_b": w1d, "hada_w2_a": w2u, "hada_w2_b": w2d}
    torch.testing.assert_close(deltas.hadamard(factors).reshape(wanted.shape) * 0.5, wanted, rtol=1e-5, atol=1e-5)
    w1, w2 = rand(4, 3), rand(4, 4, *kernel)
    wanted = functional.lokr.diff_weight(w1, None, None, w2, None, None, None, gamma=1.0)
    torch.testing.assert_close(deltas.kronecker({"lokr_w1": w1, "lokr_w2": w2}), wanted, rtol=1e-5, atol=1e-5)
    weight, blocks = rand(16, 12, *kernel), rand(4, 4, 4) * 0.2
    wanted = weight + functional.diag_oft.diff_weight(weight, blocks, None)
    torch.testing.assert_close(deltas.rotate(weight, {"oft_blocks": blocks}, 0.0, 1.0), wanted, rtol=1e-4, atol=1e-5)
    pytest.importorskip("einops")
    blocks = rand(3, 4, 4, 4) * 0.2
    wanted = weight + functional.boft.diff_weight(weight, blocks, None)
    torch.testing.assert_close(deltas.butterfly(weight, {"oft_blocks": blocks}, 0.0, 1.0), wanted, rtol=1e-4, atol=1e-5)
    scale = torch.rand(1, 12, *tails) + 0.5
    change = rand(16, 12, *kernel)
    wanted = (
        functional.apply_dora_scale(weight, change, scale, 0.6) if hasattr(functional, "apply_dora_scale") else None
    )
    if wanted is not None:
        torch.testing.assert_close(deltas.decompose(weight, change, scale, 0.6), wanted, rtol=1e-4, atol=1e-5)


def test_tucker_cores_against_lycoris() -> None:
    functional = pytest.importorskip("lycoris.functional", reason="LyCORIS is not installed")
    rand = torch.randn
    down, up, mid = rand(4, 12, 1, 1), rand(16, 4, 1, 1), rand(4, 4, 3, 3)
    wanted = (
        functional.locon.tucker_weight_from_conv(up, down, mid)
        if hasattr(functional.locon, "tucker_weight_from_conv")
        else functional.general.tucker_weight_from_conv(up, down, mid)
    )
    torch.testing.assert_close(deltas.low_rank({"up": up, "down": down, "mid": mid}), wanted, rtol=1e-5, atol=1e-5)
    w1d, w1u, t1, w2d, w2u, t2 = rand(4, 12), rand(4, 16), rand(4, 4, 3, 3), rand(4, 12), rand(4, 16), rand(4, 4, 3, 3)
    wanted = functional.loha.diff_weight(w1d, w1u, w2d, w2u, t1, t2, gamma=torch.tensor(1.0))
    factors = {"hada_w1_a": w1u, "hada_w1_b": w1d, "hada_t1": t1, "hada_w2_a": w2u, "hada_w2_b": w2d, "hada_t2": t2}
    torch.testing.assert_close(deltas.hadamard(factors), wanted, rtol=1e-4, atol=1e-4)
