"""Finding a VAE in a file, its names, its family, and refusing what is none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from vae_makers import narrow_layout, random_weights, spelled, unet_tensors, write_vae  # noqa: E402

from makers import write_header_only  # noqa: E402
from modelsmith.errors import BadFileError, UnknownNameError  # noqa: E402
from modelsmith.files.header import read_header  # noqa: E402
from modelsmith.vae import families  # noqa: E402
from modelsmith.vae.company import learned, with_company  # noqa: E402
from modelsmith.vae.families import Hints, KnownFile, fingerprint, fits, identify_vae  # noqa: E402
from modelsmith.vae.health import check_header  # noqa: E402
from modelsmith.vae.keys import canonical, spell  # noqa: E402
from modelsmith.vae.layout import Layout, VaeFile, find_vae  # noqa: E402

SD = narrow_layout(4, (32, 32, 32, 64))
SIXTEEN = narrow_layout(16, (32, 32, 32, 64), quant=False)
FLUX2 = narrow_layout(32, (32, 32, 32, 64), batch_norm=True)


def vae_of(path: Path) -> VaeFile:
    return find_vae(read_header(path))


@pytest.mark.parametrize("layout", [SD, SIXTEEN, FLUX2, narrow_layout(4, (32, 64, 64), blocks=2)])
def test_names_go_both_ways(layout: Layout) -> None:
    names = list(layout.tensors())
    levels = len(layout.up)
    for naming in ("ldm", "ldm-nested", "diffusers"):
        there = [spell(name, naming, levels) for name in names]
        assert len(set(there)) == len(names)
        assert [canonical(name, levels) for name in there] == names


def test_the_full_width_has_the_names_and_shapes_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    layout = narrow_layout(4, (128, 256, 512, 512), blocks=2)
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {
        spell(name, "diffusers", 4): shape[:2] if ".attn_" in name else shape
        for name, shape in layout.tensors().items()
    }
    assert found == wanted


def test_old_attention_names_of_diffusers_are_read(tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in spelled(SD, random_weights(SD), "diffusers").items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        tensors[name] = tensor
    save_file(tensors, tmp_path / "old.safetensors")
    vae = vae_of(tmp_path / "old.safetensors")
    assert vae.names["decoder.mid.attn_1.q.weight"] == "decoder.mid_block.attentions.0.query.weight"


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize(
    ("layout", "naming"), [(SD, "ldm"), (SD, "diffusers"), (FLUX2, "ldm-nested"), (SIXTEEN, "ldm")]
)
def test_found_wherever_it_lies(tmp_path: Path, prefix: str, layout: Layout, naming: str) -> None:
    path = tmp_path / "any.safetensors"
    weights = random_weights(layout)
    rest = unet_tensors() if prefix else {}
    save_file({**rest, **spelled(layout, weights, naming, prefix)}, path)  # type: ignore[arg-type]
    vae = vae_of(path)
    assert (vae.prefix, vae.naming, vae.layout) == (prefix, naming, layout)
    assert len(vae.names) == len(weights)
    assert set(vae.extras) == (
        {f"{prefix}bn.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
        if layout is FLUX2
        else set()
    )


def test_training_leftovers_are_no_obstacle(tmp_path: Path) -> None:
    tensors = {**spelled(SD, random_weights(SD), "ldm"), "loss.logvar": torch.zeros(1), "loss.step": torch.tensor(3)}
    save_file(tensors, tmp_path / "v.safetensors")
    assert set(vae_of(tmp_path / "v.safetensors").extras) == {"loss.logvar", "loss.step"}


def broken(path: Path, change: str) -> Path:
    tensors = spelled(SD, random_weights(SD), "ldm")
    if change == "missing":
        del tensors["decoder.up.1.block.0.conv2.bias"]
    elif change == "shape":
        tensors["encoder.down.1.block.0.conv1.weight"] = torch.zeros((32, 16, 3, 3))
    elif change == "unknown":
        tensors["decoder.up.0.attn.0.q.weight"] = torch.zeros((32, 32))
    elif change == "no encoder":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder")}
    elif change == "no decoder":
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder")}
    elif change == "int8":
        tensors["decoder.mid.block_1.conv1.weight"] = torch.zeros((64, 64, 3, 3), dtype=torch.int8)
    elif change == "scaled":
        tensors["decoder.mid.block_1.conv1.weight_scale"] = torch.ones(1)
    elif change == "fp8":
        tensors["decoder.conv_in.weight"] = tensors["decoder.conv_in.weight"].to(torch.float8_e4m3fn)
    elif change == "video":
        tensors["decoder.conv_in.weight"] = torch.zeros((64, 4, 3, 3, 3))
    elif change == "wan":
        tensors = {"decoder.middle.0.residual.0.gamma": torch.zeros(8), "conv1.weight": torch.zeros((2, 2, 1, 1, 1))}
    elif change == "tiny":
        tensors = {"decoder.layers.0.weight": torch.zeros((64, 4, 3, 3)), "encoder.layers.0.weight": torch.zeros(1)}
    elif change == "no vae":
        tensors = unet_tensors()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"decoder\.up\.1\.block\.0\.conv2\.bias.*is missing"),
        ("shape", r"encoder\.down\.1\.block\.0\.conv1\.weight.*\[32, 16, 3, 3\].*\[32, 32, 3, 3\]"),
        ("unknown", r"decoder\.up\.0\.attn\.0\.q\.weight"),
        ("no encoder", r"encoder\..*is missing"),
        ("no decoder", "no decoder"),
        ("int8", r"quantised.*decoder\.mid\.block_1\.conv1\.weight.*I8"),
        ("scaled", r"quantised.*weight_scale"),
        ("fp8", r"quantised.*decoder\.conv_in\.weight.*F8_E4M3"),
        ("video", r"decoder\.conv_in\.weight.*five-dimensional"),
        ("wan", "Wan / Qwen-Image"),
        ("tiny", "TAESD"),
        ("no vae", "no VAE in it"),
    ],
)
def test_refused_with_the_tensors_name(tmp_path: Path, change: str, words: str) -> None:
    path = broken(tmp_path / f"{change}.safetensors", change)
    with pytest.raises(BadFileError, match=words) as caught:
        vae_of(path)
    assert path.name in str(caught.value) and caught.value.remedy


def test_groups_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    layout = narrow_layout(4, (48, 64))
    path = write_header_only(tmp_path / "v.safetensors", {n: ("F32", shape) for n, shape in layout.tensors().items()})
    with pytest.raises(BadFileError, match="32 groups"):
        vae_of(path)


def test_families_by_shape_alone(tmp_path: Path) -> None:
    for layout, wanted in (
        (SD, ("sd", "sdxl")),
        (SIXTEEN, ("sd3", "flux1")),
        (FLUX2, ("flux2",)),
        (narrow_layout(4, (32, 64, 64)), ("x4-upscaler",)),
    ):
        naming = "ldm-nested" if layout is FLUX2 else "ldm"
        path = write_vae(tmp_path / "plain.safetensors", layout, random_weights(layout), naming)  # type: ignore[arg-type]
        identity = identify_vae(vae_of(path))
        assert identity.families == wanted
        assert identity.grade == ("proof" if len(wanted) == 1 else "default")


def test_families_by_evidence_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_vae(tmp_path / "sdxl_thing.safetensors", SD, random_weights(SD))
    vae = vae_of(path)
    assert (identify_vae(vae).family, identify_vae(vae).grade) == ("sdxl", "weak")
    (tmp_path / "config.json").write_text(json.dumps({"scaling_factor": 0.18215}))
    assert (identify_vae(vae).family, identify_vae(vae).grade) == ("sd", "strong")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(families.KNOWN_FILES, digest, KnownFile("test", "sdxl", 1, True))  # type: ignore[arg-type]
    known = identify_vae(vae, Hints(sha256=digest))
    assert (known.family, known.grade) == ("sdxl", "proof")
    assert check_header(vae, known).verdict == "safe"
    told = identify_vae(vae, Hints(told={fingerprint(vae).decoder: "sd"}))
    assert (told.family, told.grade) == ("sd", "proof")
    torn = identify_vae(vae, Hints(said="sd", sha256=digest))
    assert torn.conflict and torn.family is None and set(torn.families) == {"sd", "sdxl"}
    assert identify_vae(vae, Hints(said="flux2")).families == ("sd",), "what the shape excludes is no evidence"
    with pytest.raises(UnknownNameError, match="sdxl"):
        identify_vae(vae, Hints(said="sdxxl"))


def test_names_of_real_files_hint_at_their_family(tmp_path: Path) -> None:
    four = {
        "sdxl_vae": "sdxl",
        "xlVAEC_c1": "sdxl",
        "ponyDiffusion.vae": "sdxl",
        "vae-ft-mse-840000-ema-pruned": "sd",
        "kl-f8-anime2": "sd",
        "sd-v1-5.vae": "sd",
        "sd_xl_base_1.0_vae": "sdxl",
    }
    sixteen = {"ae": "flux1", "flux_vae": "flux1", "sd3.5_vae": "sd3", "something": None}
    for layout, names in ((SD, {**four, "something": None}), (SIXTEEN, sixteen)):
        for name, wanted in names.items():
            path = write_vae(tmp_path / f"{name}.safetensors", layout, random_weights(layout))
            assert identify_vae(vae_of(path)).family == wanted, name


def test_a_damaged_config_says_nothing(tmp_path: Path) -> None:
    path = write_vae(tmp_path / "plain.safetensors", SD, random_weights(SD))
    for text in (
        "{",
        "[]",
        '{"scaling_factor": true}',
        '{"scaling_factor": "0.13"}',
        "[" * 10_000,
        '{"scaling_factor": 7}',
    ):
        (tmp_path / "config.json").write_text(text)
        assert identify_vae(vae_of(path)).grade == "default"


def test_fingerprints_survive_a_change_of_type_and_differ_between_vaes(tmp_path: Path) -> None:
    first = write_vae(tmp_path / "a.safetensors", SD, random_weights(SD, 1))
    half = write_vae(tmp_path / "b.safetensors", SD, random_weights(SD, 1), "diffusers", torch.float16)
    other = write_vae(tmp_path / "c.safetensors", SD, random_weights(SD, 2))
    assert fingerprint(vae_of(first)) == fingerprint(vae_of(half))
    assert fingerprint(vae_of(first)).space != fingerprint(vae_of(other)).space
    assert fingerprint(vae_of(first)).decoder != fingerprint(vae_of(other)).decoder


def test_a_checkpoint_teaches_what_its_vae_is(tmp_path: Path) -> None:
    weights = random_weights(SD, 4)
    checkpoint = tmp_path / "model.safetensors"
    save_file({**unet_tensors("sdxl"), **spelled(SD, weights, "ldm", "first_stage_model.")}, checkpoint)
    header = read_header(checkpoint)
    inside = find_vae(header)
    assert identify_vae(inside, with_company(inside, Hints())).family == "sdxl"
    book = learned(header)
    alone = vae_of(write_vae(tmp_path / "plain.safetensors", SD, weights, "diffusers", torch.float16))
    assert identify_vae(alone).family is None
    identity = identify_vae(alone, Hints(told=book))
    assert identity.family == "sdxl"
    assert fits(identity, "sdxl") == "fits"
    assert fits(identity, "sd1") == "does_not_fit"
    assert fits(identify_vae(alone), "sd1") == "unsure"
    assert fits(identity, "wan") == "unsure"
    assert learned(read_header(alone.header.path)) == {}


def test_sdxl_in_fp16_is_at_risk(tmp_path: Path) -> None:
    vae = vae_of(write_vae(tmp_path / "sdxl.safetensors", SD, random_weights(SD), dtype=torch.float16))
    health = check_header(vae, identify_vae(vae))
    assert (health.verdict, health.dtype) == ("at_risk", "F16")
    flux = vae_of(write_vae(tmp_path / "flux.safetensors", SIXTEEN, random_weights(SIXTEEN)))
    assert check_header(flux, identify_vae(flux)).verdict == "unknown"


def test_looking_at_a_vae_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import modelsmith.vae.cli, modelsmith.vae.company, "
        "modelsmith.vae.health, modelsmith.vae.report, modelsmith.vae.families; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": LIBRARY})
    assert done.stdout == "fine\n", done.stderr


LIBRARY = str(Path(families.__file__).parents[2])
