"""The cure from file to file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from vae_makers import flat, narrow_layout, random_weights, spelled, unet_tensors, write_vae  # noqa: E402
from vae_oracles import diffusers_model, diffusers_run  # noqa: E402

from modelsmith.errors import BadFileError, Cancelled, UsageError  # noqa: E402
from modelsmith.files.header import read_header  # noqa: E402
from modelsmith.vae import fix as fix_module  # noqa: E402
from modelsmith.vae.calibration import Calibration, CalibrationOptions  # noqa: E402
from modelsmith.vae.families import fingerprint, identify_vae  # noqa: E402
from modelsmith.vae.fix import FixRequest, NothingToCure, ProofFailed, run_fix  # noqa: E402
from modelsmith.vae.health import FIX_RECORD, check_header, measure, values_print  # noqa: E402
from modelsmith.vae.keys import Naming  # noqa: E402
from modelsmith.vae.layout import Layout, find_vae  # noqa: E402
from modelsmith.vae.measure import Watch  # noqa: E402
from modelsmith.vae.network import FP16_MAX  # noqa: E402

LAYOUT = narrow_layout(4, (32, 32, 32, 64))
SMALL = CalibrationOptions(size=4)


@pytest.fixture(scope="module")
def loud() -> dict[str, torch.Tensor]:
    """Weights that leave fp16's range in the decoder and the encoder."""
    return random_weights(LAYOUT, gain=3e4, branch=1e5)


def only(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_wide_vae_is_calculated_in_fp16_on_a_small_part(
    tmp_path: Path, loud: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CPU cannot do whole in fp16 itself it does on a few latent pixels; an overflow there keeps nothing."""
    monkeypatch.setattr(fix_module, "_NATIVE_WIDTH", 8)
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud, "ldm")
    request = FixRequest(source, tmp_path / "quiet.safetensors", calibration=CalibrationOptions(size=6))
    proof = run_fix(request).proof
    assert not proof.native and proof.small is not None and 0 < proof.small.largest < 0.05
    far = Calibration((("far", torch.full((1, 4, 4, 4), 1e6)),), ())
    monkeypatch.setattr(fix_module, "small_inputs", lambda *_: far)
    with pytest.raises(ProofFailed, match="calculated in fp16 itself"):
        run_fix(replace(request, target=tmp_path / "other.safetensors"))
    assert only(tmp_path) == {"loud.safetensors", "quiet.safetensors"}


def test_the_print_tells_a_cured_copy_from_its_original(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud, "ldm")
    cured = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL)).path
    one, two = (find_vae(read_header(path)) for path in (source, cured))
    assert fingerprint(one) == fingerprint(two)
    assert values_print(one) != values_print(two)
    other = write_vae(tmp_path / "named.safetensors", LAYOUT, loud, "diffusers")
    assert values_print(find_vae(read_header(other))) == values_print(one)


@pytest.mark.parametrize("naming", ["ldm", "diffusers"])
def test_a_file_is_cured_and_proved(tmp_path: Path, loud: dict[str, torch.Tensor], naming: Naming) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud, naming, metadata={"format": "pt", "kept": "yes"})
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL, compare_bf16=True))
    assert result.before.peak.value > FP16_MAX > 3 * result.after.peak.value
    assert result.proof.fp32.largest <= 1e-5
    assert result.proof.native
    assert result.proof.bf16 is not None and 4 * result.proof.fp16.mean < result.proof.bf16.mean
    assert result.inexact == 0

    before, after = load_file(source), load_file(result.path)
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor * 2.0 ** result.exponents.get(name, 0)), name
    with safe_open(result.path, "pt") as opened:
        metadata = opened.metadata()
    record = json.loads(metadata[FIX_RECORD])
    assert metadata["kept"] == "yes"
    assert record["streams"] == dict(result.plan.stages)
    assert record["largest_before"] == [result.before.peak.layer, result.before.peak.value]
    assert only(tmp_path) == {"loud.safetensors", "quiet.safetensors"}


def test_diffusers_runs_the_written_file_in_fp16(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud, "diffusers")
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL))
    latents = torch.randn((1, 4, 4, 4)) * 7
    wanted = diffusers_run(diffusers_model(LAYOUT, loud, torch.float32), "decoder", latents)
    model = diffusers_model(LAYOUT, loud, torch.float32)
    model.load_state_dict(load_file(result.path), strict=True)
    torch.testing.assert_close(
        diffusers_run(model, "decoder", latents), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max())
    )
    assert bool(diffusers_run(model.half(), "decoder", latents.half()).isfinite().all())


def test_in_a_checkpoint_everything_else_stays_byte_for_byte(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = tmp_path / "model.safetensors"
    save_file({**unet_tensors(), **spelled(LAYOUT, loud, "ldm", "first_stage_model.")}, source)
    result = run_fix(FixRequest(source, tmp_path / "cured.safetensors", calibration=SMALL))
    assert result.identity.family == "sdxl"
    old, new = read_header(source), read_header(result.path)
    assert list(old.tensors) == list(new.tensors)
    for name, info in old.tensors.items():
        with source.open("rb") as first, result.path.open("rb") as second:
            first.seek(info.start)
            second.seek(new.tensors[name].start)
            same = first.read(info.nbytes) == second.read(info.nbytes)
        assert same == (name not in result.exponents), name
    assert all(name.startswith("first_stage_model.") for name in result.exponents)
    vae = find_vae(new)
    assert check_header(vae, identify_vae(vae)).cured
    assert not check_header(find_vae(old), identify_vae(find_vae(old))).cured


def test_a_cured_file_is_not_known_as_cured_once_its_vae_is_another(
    tmp_path: Path, loud: dict[str, torch.Tensor]
) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL))
    with safe_open(result.path, "pt") as opened:
        metadata = opened.metadata()
    swapped = write_vae(tmp_path / "swapped.safetensors", LAYOUT, loud, metadata=metadata)
    vae = find_vae(read_header(swapped))
    assert not check_header(vae, identify_vae(vae)).cured
    converted = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(result.path).items()}, converted, metadata)
    vae = find_vae(read_header(converted))
    assert check_header(vae, identify_vae(vae)).cured


@pytest.mark.parametrize(("side", "other"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_one_half_alone(tmp_path: Path, loud: dict[str, torch.Tensor], side: str, other: str) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    request = FixRequest(source, tmp_path / "quiet.safetensors", (side,), calibration=SMALL)  # type: ignore[arg-type]
    result = run_fix(request)
    assert result.exponents and all(name.startswith(side) for name in result.exponents)
    after = {layer.layer: layer.value for layer in result.after.layers}
    assert max(value for layer, value in after.items() if layer.startswith(side)) < FP16_MAX
    assert max(value for layer, value in after.items() if layer.startswith(other)) > FP16_MAX


@pytest.mark.parametrize(
    "layout", [narrow_layout(16, (32, 64), quant=False), narrow_layout(32, (32, 64), batch_norm=True)]
)
def test_other_families_by_the_same_code(tmp_path: Path, layout: Layout) -> None:
    naming: Naming = "ldm-nested" if layout.batch_norm else "ldm"
    source = write_vae(tmp_path / "loud.safetensors", layout, random_weights(layout, gain=3e4, branch=1e5), naming)
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL))
    assert result.before.overflows and not result.after.overflows
    if layout.batch_norm:
        assert torch.equal(load_file(result.path)["bn.running_var"], load_file(source)["bn.running_var"])


def test_fp16_files_tell_what_they_could_not_hold(tmp_path: Path) -> None:
    weights = random_weights(LAYOUT, gain=3e4, branch=1e4)
    weights["decoder.conv_in.bias"][0] = 1e-7
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, weights, dtype=torch.float16)
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=SMALL))
    assert result.inexact >= 1
    assert result.proof.fp32.largest <= 1e-5


def test_images_are_run_as_well(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (50, 37), (200, 30, 90))
    picture.save(tmp_path / "red.png")
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    options = CalibrationOptions(latents=1, size=4, images=(tmp_path / "red.png",))
    result = run_fix(FixRequest(source, tmp_path / "quiet.safetensors", calibration=options))
    assert result.before.inputs == ("latent 1, white noise", "latent of red.png", "red.png")
    (tmp_path / "text.png").write_text("no image")
    broken = CalibrationOptions(size=4, images=(tmp_path / "text.png",))
    with pytest.raises(BadFileError, match=r"text\.png"):
        run_fix(FixRequest(source, tmp_path / "never.safetensors", calibration=broken))
    assert not (tmp_path / "never.safetensors").exists()


def test_a_healthy_vae_is_left_alone(tmp_path: Path) -> None:
    source = write_vae(tmp_path / "calm.safetensors", LAYOUT, random_weights(LAYOUT))
    with pytest.raises(NothingToCure, match="leaves fp16 a factor"):
        run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))
    assert only(tmp_path) == {"calm.safetensors"}


def test_a_failed_proof_leaves_nothing(
    tmp_path: Path, loud: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    kept = write_vae(tmp_path / "kept.safetensors", LAYOUT, random_weights(LAYOUT))
    before = kept.read_bytes()
    true_scaling = fix_module.cure.scaled

    def wrong(tensor: torch.Tensor, exponent: int) -> torch.Tensor:
        return true_scaling(tensor, exponent) * (1.01 if exponent else 1)

    monkeypatch.setattr(fix_module.cure, "scaled", wrong)
    with pytest.raises(ProofFailed, match="fp32 output differs"):
        run_fix(FixRequest(source, kept, calibration=SMALL, overwrite=True))
    assert kept.read_bytes() == before
    assert only(tmp_path) == {"loud.safetensors", "kept.safetensors"}


def test_a_norm_that_varies_too_little_fails_the_proof(tmp_path: Path) -> None:
    """Half the stream is huge and the rest almost constant: no factor suits both, and the proof says so."""
    weights = random_weights(LAYOUT)
    for name in weights:
        if name.startswith("decoder.up.0.") and ("conv2" in name or "nin_shortcut" in name):
            weights[name] *= 1e-4
    stream = "decoder.up.1.upsample.conv"
    weights[f"{stream}.weight"] *= 1e-3
    weights[f"{stream}.weight"][0] *= 1e8
    weights[f"{stream}.bias"] *= 1e-3
    source = write_vae(tmp_path / "odd.safetensors", LAYOUT, weights)
    with pytest.raises(ProofFailed, match="vary too little"):
        run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))
    assert only(tmp_path) == {"odd.safetensors"}


def test_a_pickled_checkpoint_becomes_a_safetensors_one(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    tensors = {**unet_tensors("sd1"), **spelled(LAYOUT, loud, "ldm", "first_stage_model.")}
    torch.save({"state_dict": tensors, "global_step": 5}, tmp_path / "model.ckpt")
    result = run_fix(FixRequest(tmp_path / "model.ckpt", tmp_path / "out.safetensors", calibration=SMALL))
    assert result.identity.family == "sd"
    found = load_file(result.path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t * 2.0 ** result.exponents.get(n, 0)) for n, t in tensors.items())


def test_a_half_that_is_healthy_is_left_alone(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    calm = random_weights(LAYOUT)
    mixed = {name: loud[name] if name.startswith("encoder") else calm[name] for name in calm}
    source = write_vae(tmp_path / "mixed.safetensors", LAYOUT, mixed)
    with pytest.raises(NothingToCure, match=r"\(decoder"):
        run_fix(FixRequest(source, tmp_path / "out.safetensors", ("decoder",), calibration=SMALL))
    result = run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))
    assert result.exponents and all(name.startswith("encoder") for name in result.exponents)


def test_a_layer_that_no_factor_reaches_is_named(tmp_path: Path) -> None:
    weights = random_weights(LAYOUT)
    weights["decoder.conv_out.weight"] *= 1e6
    source = write_vae(tmp_path / "odd.safetensors", LAYOUT, weights)
    with pytest.raises(ProofFailed, match=r"decoder\.conv_out"):
        run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))
    assert only(tmp_path) == {"odd.safetensors"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    weights = random_weights(LAYOUT)
    weights["decoder.mid.block_1.conv1.weight"][0, 0, 0, 0] = value
    source = write_vae(tmp_path / "bad.safetensors", LAYOUT, weights, "diffusers")
    with pytest.raises(BadFileError, match=r"decoder\.mid_block\.resnets\.0\.conv1\.weight") as caught:
        run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))
    assert "bad.safetensors" in str(caught.value)
    assert only(tmp_path) == {"bad.safetensors"}


def test_finite_weights_whose_result_is_not(tmp_path: Path) -> None:
    weights = random_weights(LAYOUT)
    weights["decoder.conv_in.weight"] *= 1e38
    source = write_vae(tmp_path / "bad.safetensors", LAYOUT, weights)
    with pytest.raises(BadFileError, match="already in fp32"):
        run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL))


def test_targets_that_are_refused(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    with pytest.raises(UsageError, match="the source itself"):
        run_fix(FixRequest(source, source, overwrite=True))
    with pytest.raises(UsageError, match=r"ending \.safetensors"):
        run_fix(FixRequest(source, tmp_path / "out.ckpt"))
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(UsageError, match="exists already"):
        run_fix(FixRequest(source, tmp_path / "there.safetensors"))
    with pytest.raises(UsageError, match="headroom"):
        FixRequest(source, tmp_path / "out.safetensors", headroom=0.5)


def test_stopping_leaves_nothing(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    for wanted in ("measuring the decoder", "writing", "proving in fp16"):
        stages: list[str] = []

        def note(stage: str, done: float, stages: list[str] = stages) -> None:
            stages.append(stage)

        watch = Watch(note, lambda stages=stages, wanted=wanted: stages[-1] == wanted)
        with pytest.raises(Cancelled):
            run_fix(FixRequest(source, tmp_path / "out.safetensors", calibration=SMALL), watch)
        assert only(tmp_path) == {"loud.safetensors"}


def test_measuring_reports_what_a_plain_run_shows(tmp_path: Path, loud: dict[str, torch.Tensor]) -> None:
    source = write_vae(tmp_path / "loud.safetensors", LAYOUT, loud)
    vae = find_vae(read_header(source))
    found = measure(vae, identify_vae(vae), SMALL)
    assert found.overflows and found.peak.value > FP16_MAX
    model = diffusers_model(LAYOUT, loud, torch.float32)
    seen: list[float] = []
    model.decoder.conv_in.register_forward_hook(lambda *parts: seen.append(float(parts[2].abs().max())))
    for name in found.inputs[:3]:
        generator = torch.Generator().manual_seed(int(name.split()[1].rstrip(",")) - 1)
        side = {"white": 4, "smooth": 2, "flat": 1}[name.split(", ")[1].split()[0]]
        noise = torch.randn((1, 4, side, side), generator=generator)
        if side != 4:
            mode = "bicubic" if side > 1 else "nearest"
            noise = torch.nn.functional.interpolate(noise, size=(4, 4), mode=mode)
        diffusers_run(model, "decoder", noise / 0.13025)
    layers = {layer.layer: layer.value for layer in found.layers}
    assert layers["decoder.conv_in"] == pytest.approx(max(seen), rel=1e-5)
    assert flat(loud).keys() == loud.keys()
