"""Comparing and verifying."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.helpers import converted, loaded, saved, tiny_checkpoint
from modelsmith.convert.compare import check_file, compare
from modelsmith.convert.hash_list import match_hashes, parse_hash_list, read_hash_list
from modelsmith.convert.hashes import hash_file
from modelsmith.errors import UsageError

UNET = "model.diffusion_model.time_embed.0.weight"
BIAS = "model.diffusion_model.input_blocks.0.0.bias"


def test_every_verdict(tmp_path: Path) -> None:
    a = tiny_checkpoint()
    a["nan"] = torch.tensor([1.0, torch.nan])
    a["zero"] = torch.tensor([0.0, 1.0])
    b = {name: value.clone() for name, value in a.items()}
    b[UNET] = a[UNET].half()
    b[BIAS][3] += 0.5
    b["zero"][0] = -0.0
    b["model.diffusion_model.out.2.weight"] = torch.zeros(4, 8, 3)
    b["only.here"] = b.pop("alphas_cumprod")
    found = compare(saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b))
    by_name = {difference.name: difference for difference in found.differences}
    assert by_name[UNET].verdict == "rounded" and by_name[UNET].detail == "F32 and F16"
    assert by_name[UNET].largest == float((a[UNET].half().float() - a[UNET]).abs().max())
    assert by_name[BIAS].verdict == "different"
    assert by_name[BIAS].largest == pytest.approx(0.5) and by_name[BIAS].share == 1 / 8
    assert by_name["zero"].verdict == "rounded" and by_name["nan"].verdict == "equal"
    assert by_name["model.diffusion_model.out.2.weight"].verdict == "shape"
    assert by_name["only.here"].verdict == "only_b" and by_name["alphas_cumprod"].verdict == "only_a"
    assert not found.same
    assert sum(found.counts().values()) == len(a) + 1


def test_formats_and_precisions_of_one_model_are_the_same(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    torch.save(tensors, tmp_path / "a.ckpt")
    half = tmp_path / "half.safetensors"
    converted(tmp_path / "a.ckpt", half, "fp16")
    brain = tmp_path / "bf16.safetensors"
    converted(tmp_path / "a.ckpt", brain, "bf16")
    assert compare(tmp_path / "a.ckpt", half).same
    assert compare(half, tmp_path / "a.ckpt").same
    assert not compare(half, brain).same  # each was rounded for itself


def test_damage_is_found(tmp_path: Path) -> None:
    tensors = tiny_checkpoint()
    sound = saved(tmp_path / "a.safetensors", tensors)
    assert check_file(sound).problems == ()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(sound.read_bytes()[:-5])
    assert "cut short" in check_file(cut).problems[0]
    tensors[UNET][2, 2] = torch.nan
    tensors[BIAS][0] = torch.inf
    found = check_file(saved(tmp_path / "nan.safetensors", tensors)).problems
    assert len(found) == 2 and any(f"{UNET!r} holds 1 NaN" in problem for problem in found)
    assert check_file(tmp_path / "nan.safetensors", values=False).problems == ()
    eight = tmp_path / "eight.safetensors"
    converted(tmp_path / "nan.safetensors", eight, "fp8_e4m3")
    assert any("1 NaN" in problem for problem in check_file(eight).problems)
    assert check_file(tmp_path / "none.safetensors").problems


def test_hash_lists(tmp_path: Path) -> None:
    path = saved(tmp_path / "a b.safetensors", tiny_checkpoint())
    hashes = hash_file(path)
    text = tmp_path / "list.txt"
    for line in (
        f"{hashes.sha256} *a b.safetensors",
        f"a b.safetensors: {hashes.autov2.upper()}",
        f"{hashes.autov3}  some/where/a b.safetensors",
    ):
        text.write_text(f"# known\n\n{line}\n")
        known = match_hashes(read_hash_list(text), {path: "a b.safetensors"})
        assert known.missing == () and check_file(path, expected=known.by_file[path]).problems == ()
    assert "not one of those" in check_file(path, expected=frozenset({"0" * 64})).problems[0]
    text.write_text("no hash at all\n")
    with pytest.raises(UsageError, match="line 1"):
        read_hash_list(text)
    assert loaded(path)


ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


@pytest.mark.parametrize(
    ("lines", "root", "anime", "photo", "missing"),
    [
        ((f"{ONE}  anime/m.ckpt", f"{TWO}  リアル系/m.ckpt"), None, ONE, TWO, ()),
        ((f"{ONE}  anime/m.ckpt",), None, ONE, None, ()),
        ((f"{ONE}  m.ckpt", f"{TWO}  anime/m.ckpt"), ONE, TWO, None, ()),
        ((rf"{ONE}  C:\sd\models\anime\m.ckpt", f"{TWO} *./リアル系/m.ckpt"), None, ONE, TWO, ()),
        ((f"{ONE}  /sd/models/anime/m.ckpt", f"{TWO}  /old/anime/m.ckpt"), None, ONE, None, ("/old/anime/m.ckpt",)),
        ((f"{ONE}  other/m.ckpt",), ONE, None, None, ()),
        ((f"{ONE}  other/m.ckpt", f"{TWO}  m.ckpt"), TWO, None, None, ("other/m.ckpt",)),
        ((f"{ONE}  n.ckpt",), None, None, None, ("n.ckpt",)),
    ],
)
def test_hashes_go_to_the_files_in_their_folders(
    lines: tuple[str, ...], root: str | None, anime: str | None, photo: str | None, missing: tuple[str, ...]
) -> None:
    names = {Path("/sd/models", name): name for name in ("m.ckpt", "anime/m.ckpt", "リアル系/m.ckpt")}
    found = match_hashes(parse_hash_list("\n".join(lines)), names)
    wanted = {path: {one} for path, one in zip(names, (root, anime, photo), strict=True) if one}
    assert {path: set(hashes) for path, hashes in found.by_file.items()} == wanted
    assert found.missing == missing


def test_a_bare_name_may_be_in_any_folder() -> None:
    names = {Path("/sd/models", name): name for name in ("anime/m.ckpt", "photo/m.ckpt")}
    found = match_hashes(parse_hash_list(f"{ONE}  m.ckpt\n{THREE}  m.ckpt"), names)
    assert found.by_file == dict.fromkeys(names, frozenset({ONE, THREE})) and found.missing == ()
