"""The difference map against fp64 on whole models, its errors, and its memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge.models import Model, tensors, write_model
from modelsmith.cli import main
from modelsmith.errors import Cancelled, MergeError
from modelsmith.merge import difference
from modelsmith.merge.blocks import LAYOUTS
from modelsmith.merge.difference import difference_json, difference_map

Models = tuple[Path, Path, Path]
LAYOUT = LAYOUTS["sdxl"]


def by_block(path: Path) -> dict[str, torch.Tensor]:
    """All floating values of each block, as one fp64 vector."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in sorted(load_file(str(path)).items()):
        if tensor.is_floating_point() and tensor.numel():
            found.setdefault(LAYOUT.block_of(name), []).append(tensor.double().reshape(-1))
    return {block: torch.cat(parts) for block, parts in found.items()}


@pytest.mark.parametrize("piece", [1 << 20, 131])
def test_two_models_block_by_block(abc: Models, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(difference, "PIECE", piece)
    found = difference_map(abc[0], abc[1])
    a, b = by_block(abc[0]), by_block(abc[1])
    assert set(found.blocks) == set(a) and list(found.blocks) == [name for name in LAYOUT.ids if name in a]
    for name, block in found.blocks.items():
        change = b[name] - a[name]
        assert block.relative_l2 == pytest.approx(float(change.norm() / a[name].norm()), rel=1e-9)
        assert block.cosine == pytest.approx(float(a[name] @ b[name] / a[name].norm() / b[name].norm()), abs=1e-9)
        assert block.largest == float(change.abs().max()) and block.values == change.numel()


def test_a_difference_against_a_third_model(abc: Models) -> None:
    found = difference_map(*abc).to_json()
    a, b, c = (by_block(path) for path in abc)
    assert found["layout"] == "sdxl"
    for name, block in found["blocks"].items():
        change = b[name] - c[name]
        assert block["relative_l2"] == pytest.approx(float(change.norm() / a[name].norm()), rel=1e-9)
        assert block["cosine"] == pytest.approx(float(a[name] @ change / a[name].norm() / change.norm()), abs=1e-9)


def test_a_model_and_itself_do_not_differ(abc: Models) -> None:
    shares: list[float] = []
    found = difference_map(abc[0], abc[0], progress=shares.append)
    assert all(block.relative_l2 == 0 and block.largest == 0 for block in found.blocks.values())
    assert all(block.cosine == pytest.approx(1, abs=1e-12) for block in found.blocks.values())
    assert shares[-1] == 1.0 and shares == sorted(shares)


def test_what_cannot_be_compared_is_listed(tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    shape = "model.diffusion_model.input_blocks.0.0.weight"
    state = tensors(Model(seed=2))
    state[key][0] = math.nan
    del state["model.diffusion_model.out.0.bias"]
    b = tmp_path / "b.safetensors"
    save_file(state, str(b))
    a = write_model(tmp_path / "a.safetensors", Model(seed=1, in_channels=9))
    found = difference_map(a, b)
    assert found.missing == ("model.diffusion_model.out.0.bias",)
    assert found.shapes == (shape,) and found.not_finite == (key,)
    assert all(block.relative_l2 is not None and math.isfinite(block.relative_l2) for block in found.blocks.values())


def test_a_zero_block_has_no_angle(tmp_path: Path) -> None:
    state = tensors(Model(seed=1))
    for name in state:
        if "middle_block" in name:
            state[name] = torch.zeros_like(state[name])
    path = tmp_path / "zero.safetensors"
    save_file(state, str(path))
    other = write_model(tmp_path / "b.safetensors", Model(seed=2))
    found = difference_map(path, other).blocks["M00"]
    assert found.cosine is None and found.relative_l2 is None and found.largest > 0
    same = difference_map(path, path).blocks["M00"]
    assert same.cosine is None and same.relative_l2 == 0


def test_it_stops_when_asked_and_refuses_other_architectures(abc: Models, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        difference_map(abc[0], abc[1], cancelled=lambda: True)
    with pytest.raises(MergeError):
        difference_map(abc[0], write_model(tmp_path / "sd1.safetensors", Model("sd1")))


def test_the_command_gives_a_table_and_json(abc: Models, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["difference", str(abc[0]), str(abc[1]), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == difference_json(abc[0], abc[1])
    assert main(["difference", *map(str, abc), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 22 and any(line.startswith("OUT08") for line in lines)
