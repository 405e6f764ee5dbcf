"""The routes that bake, extract, merge and check LoRAs."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with gradio")

from fastapi.testclient import TestClient
from safetensors.torch import load_file

from lora.lora_files import write_lora
from lora.lora_modules import loha, lora
from modelsmith_webui.hosts.standalone import StandaloneHost
from webui.test_api_jobs import DEMO_A, DEMO_B, V1, client, demos, host, names, one_thread, run

__all__ = ["client", "demos", "host", "one_thread"]  # fixtures

MID = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def loras(host: StandaloneHost) -> StandaloneHost:
    """Two LoRAs beside the checkpoints, and one that no exact sum is known for."""
    (host.models / "Lora").mkdir()
    write_lora(host.models / "Lora" / "one.safetensors", {MID: lora((128, 128, 1, 1), 3)})
    write_lora(host.models / "Lora" / "two.safetensors", {MID: lora((128, 128, 1, 1), 5), "lora_unet_no": lora((4, 4))})
    write_lora(host.models / "Lora" / "odd.safetensors", {MID: loha((128, 128))})
    return host


def refused(client: TestClient, route: str, status: int, **body: Any) -> str:
    answer = client.post(f"{V1}/lora/{route}", json=body)
    assert answer.status_code == status, answer.text
    return answer.text


def test_bake(client: TestClient, loras: StandaloneHost) -> None:
    body = {"checkpoint": DEMO_A, "loras": [{"name": "one", "strength": 0.5}, {"name": "two"}], "output": "baked"}
    plan = client.post(f"{V1}/lora/bake", json={**body, "dry_run": True}).json()["plan"]
    assert plan["output"] == "baked.safetensors" and plan["changed"] == 1
    assert "baked.safetensors" not in names(loras)
    result = run(client, "lora/bake", **body)
    assert result["output"] == "baked.safetensors" and len(result["sha256"]) == 64
    assert [one["file"] for one in result["loras"]] == ["one.safetensors", "two.safetensors"]
    assert list(result["loras"][1]["unmatched"]) == ["lora_unet_no"]
    told = refused(client, "bake", 422, **body, strict=True)
    assert "match nothing" in told
    assert "exists already" in refused(client, "bake", 422, **body)
    assert "no LoRA is chosen" in refused(client, "bake", 422, checkpoint=DEMO_A, loras=[])
    refused(client, "bake", 404, checkpoint="nowhere", loras=[{"name": "one"}])


def test_extract(client: TestClient, loras: StandaloneHost) -> None:
    body = {"base": DEMO_A, "tuned": DEMO_B, "rank": 4}
    plan = client.post(f"{V1}/lora/extract", json={**body, "dry_run": True}).json()["plan"]
    assert plan["architecture"] == "sd1" and plan["output"] == "modelsmith-demo-b-lora.safetensors"
    result = run(client, "lora/extract", **body)
    assert set(result["ranks"]) == {4} and result["modules"] == plan["modules"] and 0 < result["energy"] < 1
    made = load_file(str(loras.models / "Lora" / result["output"]))
    assert made[f"{MID}.lora_up.weight"].shape == (128, 4, 1, 1)
    refused(client, "extract", 422, **body, energy=2)
    assert "unknown" in refused(client, "extract", 422, **body, output="x", device="gpu")


def test_merge_and_resize(client: TestClient, loras: StandaloneHost) -> None:
    pair = [{"name": "one"}, {"name": "two", "strength": -1}]
    result = run(client, "lora/merge", loras=pair, output="both")
    assert sorted(result["ranks"]) == [3, 8] and result["energy"] == 1.0 and "Lora/both.safetensors" in names(loras)
    small = run(client, "lora/merge", loras=[{"name": "both"}], rank=2, output="small")
    assert set(small["ranks"]) == {2} and small["energy"] < 1
    assert "at least two" in refused(client, "merge", 422, loras=[{"name": "one"}])
    assert "no exact sum" in refused(client, "merge", 422, loras=[{"name": "one"}, {"name": "odd"}])
    assert "no LoRA is chosen" in refused(client, "merge", 422, loras=[])


def test_check_in_both_languages(client: TestClient, loras: StandaloneHost) -> None:
    result = run(client, "lora/check", name="two", checkpoint=DEMO_A)
    assert result["file"] == "two.safetensors" and result["kinds"] == {"LoRA": 2}
    assert result["match"] == {"modules": 1, "unmatched": {"lora_unet_no": "the checkpoint has no such module"}}
    client.headers["accept-language"] = "ja"
    result = run(client, "lora/check", name="two", checkpoint=DEMO_A)
    assert result["match"]["unmatched"] == {"lora_unet_no": "チェックポイントにこのモジュールがありません"}
    assert "match" not in run(client, "lora/check", name="one")
