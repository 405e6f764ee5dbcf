"""Baking a VAE in, taking one out, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from vae_makers import narrow_layout, random_weights, spelled, unet_tensors, write_vae  # noqa: E402
from vae_oracles import diffusers_model  # noqa: E402

from modelsmith import cli  # noqa: E402
from modelsmith.errors import BadFileError, UsageError  # noqa: E402
from modelsmith.files.header import read_header  # noqa: E402
from modelsmith.vae.bake import BakeRequest, ExtractRequest, run_bake, run_extract  # noqa: E402
from modelsmith.vae.families import Hints, identify_vae  # noqa: E402
from modelsmith.vae.health import FIX_RECORD, check_header  # noqa: E402
from modelsmith.vae.layout import find_vae  # noqa: E402

SD = narrow_layout(4, (32, 32, 32, 64))
FLUX2 = narrow_layout(32, (32, 32, 32, 64), batch_norm=True)


def checkpoint(path: Path, architecture: str = "sdxl", naming: str = "ldm", prefix: str = "first_stage_model.") -> Path:
    tensors = unet_tensors(architecture)
    if prefix:
        tensors.update(spelled(SD, random_weights(SD, 1), naming, prefix))  # type: ignore[arg-type]
    save_file(tensors, path, {"format": "pt", "modelspec.title": "kept", "modelspec.hash_sha256": "0xstale"})
    return path


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae.", ""])
@pytest.mark.parametrize("inside", ["ldm", "diffusers"])
@pytest.mark.parametrize("given", ["ldm", "diffusers"])
def test_baking_follows_the_checkpoint(tmp_path: Path, prefix: str, inside: str, given: str) -> None:
    source = checkpoint(tmp_path / "model.safetensors", naming=inside, prefix=prefix)
    new = random_weights(SD, 2)
    vae = write_vae(tmp_path / "new.safetensors", SD, new, given)  # type: ignore[arg-type]
    result = run_bake(BakeRequest(source, vae, tmp_path / "out.safetensors"))
    found = load_file(result.path)
    wanted = spelled(SD, new, inside if prefix else "ldm", prefix or "first_stage_model.")  # type: ignore[arg-type]
    assert found.keys() == unet_tensors().keys() | wanted.keys()
    for name, tensor in {**unet_tensors(), **wanted}.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    with safe_open(result.path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.title"] == "kept" and "modelspec.hash_sha256" not in metadata
    assert (
        result.fit == "unsure" and result.tensors == len(wanted) and result.replaced == (len(wanted) if prefix else 0)
    )


def test_a_vae_of_another_family_is_refused_unless_forced(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model.safetensors", "sd1")
    vae = write_vae(tmp_path / "sdxl_vae.safetensors", SD, random_weights(SD, 2))
    with pytest.raises(BadFileError, match=r"VAE of SDXL.*is sd1"):
        run_bake(BakeRequest(source, vae, tmp_path / "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()
    assert run_bake(BakeRequest(source, vae, tmp_path / "out.safetensors", force=True)).fit == "does_not_fit"
    said = BakeRequest(source, vae, tmp_path / "out.safetensors", hints=Hints(said="sd"), overwrite=True)
    assert run_bake(said).fit == "fits"
    odd = narrow_layout(4, (32, 64))
    unknown = write_vae(tmp_path / "odd.safetensors", odd, random_weights(odd))
    with pytest.raises(BadFileError, match=r"cannot be told, and model\.safetensors needs one of SD1") as caught:
        run_bake(BakeRequest(source, unknown, tmp_path / "never.safetensors"))
    assert "系統はわからず" in caught.value.in_language("ja")[0]
    wide = write_vae(tmp_path / "flux2.safetensors", FLUX2, random_weights(FLUX2))
    with pytest.raises(BadFileError, match="32 latent channels"):
        run_bake(BakeRequest(source, wide, tmp_path / "never.safetensors", force=True))
    bare = checkpoint(tmp_path / "bare.safetensors", "sd1", prefix="")
    with pytest.raises(BadFileError, match=r"FLUX\.2"):
        run_bake(BakeRequest(bare, wide, tmp_path / "never.safetensors", force=True))


def test_what_cannot_be_baked(tmp_path: Path) -> None:
    vae = write_vae(tmp_path / "v.safetensors", SD, random_weights(SD))
    bare = tmp_path / "unet.safetensors"
    save_file({name.removeprefix("model.diffusion_model."): t for name, t in unet_tensors().items()}, bare)
    with pytest.raises(BadFileError, match="no checkpoint"):
        run_bake(BakeRequest(bare, vae, tmp_path / "out.safetensors"))
    source = checkpoint(tmp_path / "model.safetensors")
    damaged = random_weights(SD)
    damaged["encoder.conv_out.bias"][0] = float("nan")
    write_vae(tmp_path / "nan.safetensors", SD, damaged)
    with pytest.raises(BadFileError, match=r"encoder\.conv_out\.bias.*NaN"):
        run_bake(BakeRequest(source, tmp_path / "nan.safetensors", tmp_path / "out.safetensors"))
    with pytest.raises(UsageError, match="the source itself"):
        run_bake(BakeRequest(source, vae, vae, overwrite=True))
    with pytest.raises(UsageError, match="fp8"):
        run_bake(BakeRequest(source, vae, tmp_path / "out.safetensors", dtype="fp8"))
    huge = random_weights(SD)
    huge["encoder.conv_out.bias"][0] = 1e6
    write_vae(tmp_path / "huge.safetensors", SD, huge)
    with pytest.raises(BadFileError, match=r"encoder\.conv_out\.bias.*beyond F16"):
        run_bake(BakeRequest(source, tmp_path / "huge.safetensors", tmp_path / "out.safetensors", dtype="fp16"))
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("inside", ["ldm", "diffusers"])
@pytest.mark.parametrize("naming", ["ldm", "diffusers"])
def test_taking_a_vae_out(tmp_path: Path, inside: str, naming: str) -> None:
    source = checkpoint(tmp_path / "model.safetensors", naming=inside)
    request = ExtractRequest(source, tmp_path / "vae.safetensors", naming)  # type: ignore[arg-type]
    result = run_extract(request)
    found, wanted = load_file(result.path), spelled(SD, random_weights(SD, 1), naming)  # type: ignore[arg-type]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    # Its header no longer shows the family; the metadata that were written do.
    assert identify_vae(find_vae(read_header(result.path))).family == "sdxl"
    if naming == "diffusers":
        model = diffusers_model(SD, random_weights(SD, 3))
        model.load_state_dict(found, strict=True)


def test_out_and_in_again_is_the_same_file_content(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model.safetensors")
    run_extract(ExtractRequest(source, tmp_path / "vae.safetensors", "diffusers"))
    run_bake(BakeRequest(source, tmp_path / "vae.safetensors", tmp_path / "again.safetensors"))
    before, after = load_file(source), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_flux2_keeps_its_statistics_and_its_nested_names(tmp_path: Path) -> None:
    weights = random_weights(FLUX2)
    source = write_vae(tmp_path / "flux2.safetensors", FLUX2, weights, "diffusers")
    run_extract(ExtractRequest(source, tmp_path / "ldm.safetensors"))
    found = load_file(tmp_path / "ldm.safetensors")
    assert found.keys() == spelled(FLUX2, weights, "ldm-nested").keys()
    assert "encoder.quant_conv.weight" in found and found["bn.running_var"].shape == (128,)
    run_extract(ExtractRequest(tmp_path / "ldm.safetensors", tmp_path / "back.safetensors", "diffusers"))
    back, first = load_file(tmp_path / "back.safetensors"), load_file(source)
    assert back.keys() == first.keys() and all(torch.equal(back[name], first[name]) for name in first)


def test_a_change_of_type_is_that_of_torch(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model.safetensors")
    run_extract(ExtractRequest(source, tmp_path / "vae.safetensors", dtype="bf16"))
    wanted = {n: t.bfloat16() for n, t in spelled(SD, random_weights(SD, 1), "ldm").items()}
    found = load_file(tmp_path / "vae.safetensors")
    assert all(found[n].dtype == torch.bfloat16 and torch.equal(found[n], t) for n, t in wanted.items())


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = random_weights(SD, gain=3e4, branch=1e5)
    vae = write_vae(tmp_path / "sdxl_loud.safetensors", SD, loud)
    quick = ["--size", "4", "--latents", "1"]

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(["vae", *arguments])
        return code, capsys.readouterr().out

    code, out = run("check", str(vae), "--measure", "--json", *quick)
    answer = json.loads(out)
    assert code == 0 and answer["fp16"] == "at_risk" and answer["measured"]["overflows"]
    assert answer["measured"]["layers"]["decoder.conv_in"] > 0
    code, out = run("check", str(vae), "--measure", *quick)
    assert code == 0 and "overflows in fp16" in out and "65,504" in out

    fixed = str(tmp_path / "fixed.safetensors")
    code, out = run("fix", str(vae), fixed, "--json", *quick)
    answer = json.loads(out)
    assert code == 0 and answer["fp32_difference"]["largest"] <= 1e-5 and not answer["after"]["overflows"]
    assert run("fix", str(vae), fixed, *quick)[0] == 2
    code, out = run("fix", str(vae), fixed, "--overwrite", "--compare-bf16", *quick)
    assert code == 0 and "fp16 output is finite on all" in out
    assert run("fix", fixed, str(tmp_path / "twice.safetensors"), *quick)[0] == 1
    code, out = run("check", fixed, "--json")
    assert code == 0 and json.loads(out)["cured"]

    model = checkpoint(tmp_path / "model.safetensors")
    baked = str(tmp_path / "baked.safetensors")
    code, out = run("bake", str(model), fixed, baked, "--family", "sdxl", "--json")
    assert code == 0 and json.loads(out)["fit"] == "fits"
    inside = find_vae(read_header(baked))
    assert check_header(inside, identify_vae(inside)).cured
    plain = write_vae(tmp_path / "plain.safetensors", SD, loud)
    assert run("bake", baked, str(plain), str(tmp_path / "replaced.safetensors"))[0] == 0
    assert FIX_RECORD not in read_header(tmp_path / "replaced.safetensors").metadata

    code, out = run("extract", baked, str(tmp_path / "taken.safetensors"), "--naming", "diffusers")
    assert code == 0 and "diffusers naming" in out
    taken = find_vae(read_header(tmp_path / "taken.safetensors"))
    assert check_header(taken, identify_vae(taken)).cured

    assert run("check", str(tmp_path / "nothing.safetensors"))[0] == 1
    assert run("fix", str(vae), str(tmp_path / "out.pt"))[0] == 2
    assert run("fix")[0] == 2
