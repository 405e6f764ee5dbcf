"""LoRAs baked in by the merge itself: exact, by block, whatever the cut of the work; what fits nothing is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora.lora_files import worst_ulp, write_lora
from lora.lora_modules import Made, dora, lora
from merge.models import shapes
from modelsmith.errors import MergeError, UnknownNameError, UsageError
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge import pieces
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest

Models = tuple[Path, Path, Path]
UNET = "model.diffusion_model."
LIMIT = 0.502

LINEAR = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
CONV = "middle_block.0.in_layers.2"


def module(key: str) -> str:
    return "lora_unet_" + key.replace(".", "_")


def made(key: str) -> Made:
    return lora(shapes("sdxl")[f"{UNET}{key}.weight"])


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, dict[str, Made]]:
    parts = {LINEAR: made(LINEAR), CONV: made(CONV)}
    path = write_lora(tmp_path / "one.safetensors", {module(key): part for key, part in parts.items()})
    return path, parts


def test_several_loras_with_block_weights_are_rounded_once(
    abc: Models, tmp_path: Path, one: tuple[Path, dict[str, Made]]
) -> None:
    path, parts = one
    second = made(LINEAR)
    other = write_lora(tmp_path / "two.safetensors", {module(LINEAR): second})
    loras = (LoraSpec(path, 0.8, "IN04=0.5,M00=0.25"), LoraSpec(other, -0.3))
    out = tmp_path / "o.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.3}, loras=loras)))
    a, b, found = (load_file(str(file)) for file in (*abc[:2], out))
    for key in a:
        wanted = a[key].double() + (b[key].double() - a[key].double()) * 0.3
        if key == f"{UNET}{LINEAR}.weight":
            wanted = second.apply(parts[LINEAR].apply(wanted, 0.4), -0.3)
        if key == f"{UNET}{CONV}.weight":
            wanted = parts[CONV].apply(wanted, 0.2)
        assert worst_ulp(found[key], wanted) <= LIMIT, key


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_copied_tensor_takes_its_lora_too(
    abc: Models, tmp_path: Path, one: tuple[Path, dict[str, Made]], alpha: float
) -> None:
    out = tmp_path / "o.safetensors"
    request = MergeRequest(abc[:2], "weighted_sum", out, {"alpha": alpha}, loras=(LoraSpec(one[0], 1.0),))
    run_merge(plan_merge(request))
    source, found = load_file(str(abc[int(alpha)])), load_file(str(out))
    changed = {key for key in source if not torch.equal(source[key], found[key])}
    assert changed == {f"{UNET}{LINEAR}.weight", f"{UNET}{CONV}.weight"}
    key = f"{UNET}{LINEAR}.weight"
    assert worst_ulp(found[key], one[1][LINEAR].apply(source[key].double(), 1.0)) <= LIMIT


def test_bytes_do_not_depend_on_threads_or_chunks(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: tuple[Path, dict[str, Made]]
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 4096)  # two rows of the linear layer at a time
    parts = {module("input_blocks.4.1.transformer_blocks.0.ff.net.0.proj"): dora((6, 6))}
    whole = write_lora(tmp_path / "dora.safetensors", parts)
    out = tmp_path / "o.safetensors"
    request = MergeRequest(
        abc, "add_difference", out, {"alpha": 0.7}, overwrite=True, loras=(LoraSpec(one[0]), LoraSpec(whole, 0.5))
    )
    plan = plan_merge(request)
    digests = set[str]()
    for threads, chunk in ((0, 2 << 20), (1, 4096), (3, 12288)):
        run_merge(plan, options=EngineOptions(threads, chunk))
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1
    a, b, c, found = (load_file(str(file)) for file in (*abc, out))
    key = f"{UNET}{LINEAR}.weight"
    wanted = one[1][LINEAR].apply(a[key].double() + (b[key].double() - c[key].double()) * 0.7, 1.0)
    assert worst_ulp(found[key], wanted) <= LIMIT


def test_parts_that_match_nothing_are_told(abc: Models, tmp_path: Path) -> None:
    parts = {module(LINEAR): made(LINEAR), "lora_unet_input_blocks_99_1_nowhere": lora((6, 6))}
    path = write_lora(tmp_path / "odd.safetensors", parts)
    plan = plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", loras=(LoraSpec(path),)))
    told = [notice for notice in plan.notices if "lora_unet_input_blocks_99_1_nowhere" in notice.text]
    assert len(told) == 1 and told[0].level == "warning" and "odd.safetensors" in told[0].text


@pytest.mark.parametrize("weights", ["0.1,0.2", "IN3=0.5"])
def test_an_error_in_the_weights_of_a_lora_names_the_lora(
    abc: Models, tmp_path: Path, one: tuple[Path, dict[str, Made]], weights: str
) -> None:
    loras = (LoraSpec(one[0], 1.0, weights),)
    with pytest.raises((UsageError, UnknownNameError), match=r"^block weights of one\.safetensors: ") as caught:
        plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", loras=loras))
    message, remedy = caught.value.in_language("ja")
    assert message.startswith("one.safetensors の層別の重み: ") and "SDXL" in message and remedy


def test_a_lora_of_another_shape_is_refused_with_the_tensor(abc: Models, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "bad.safetensors", {module(LINEAR): lora((6, 40))})
    with pytest.raises(MergeError, match="attn2"):
        plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", loras=(LoraSpec(path),)))
