"""Publishing: name, metadata, hashes and cards."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path

import pytest
import torch

from convert.helpers import loaded, metadata_of, same_bits, saved
from host.checkpoints import write_vae
from modelsmith.convert.hashes import hash_file
from modelsmith.convert.jobs import ConvertJob, convert, repair
from modelsmith.convert.publish import PublishOptions, is_private, plan_publish, publish, suggest_name
from modelsmith.convert.repair import RepairOptions
from modelsmith.convert.romanize import ascii_name, kana_to_latin
from modelsmith.convert.write import WriteOptions
from modelsmith.errors import Cancelled, UsageError

UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("kana", "latin"),
    [
        ("ミックス", "mikkusu"),
        ("しゃしん", "shashin"),
        ("チョコレート", "chokoreto"),
        ("ジュース", "jusu"),
        ("きゃらくたー", "kyarakuta"),
        ("まっちゃ", "matcha"),
        ("ファンタジー", "fantaji"),
        ("ウィ", "ui"),
        ("クォーツ", "kwotsu"),
        ("がぎぐげごぱぴぷぺぽ", "gagigugegopapipupepo"),
        ("んをわ", "nowa"),
        ("abc", "abc"),
        ("", ""),
    ],
)
def test_kana(kana: str, latin: str) -> None:
    assert kana_to_latin(kana) == latin


def test_ascii_names() -> None:
    assert ascii_name("ふわふわミックス V2.0") == "fuwafuwamikkusu-V2.0"
    assert ascii_name("ﾐｯｸｽ 完成版").startswith("mikkusu-")
    assert ascii_name("Café  crème (final)") == "Cafe-creme-final"
    hashed = ascii_name("桜花")
    assert hashed.startswith("model-") and len(hashed) == 12 and hashed != ascii_name("梅花")
    assert ascii_name("桜花") == hashed
    assert ascii_name("桜ミックス") != ascii_name("梅ミックス")
    assert ascii_name("../../etc") == "etc"
    for name in ("", "...", "🌸", "a" * 900, "CON\0", "テスト/../x", "\ud800"):
        made = ascii_name(name)
        assert made.isascii() and made and len(made) < 200 and not set(made) & set(' /\\:*?"<>|\0')


def _model() -> dict[str, torch.Tensor]:
    """What an SD1 checkpoint is told by, and averages that nobody needs."""
    at = UNET + "input_blocks.1.1.transformer_blocks.0."
    shapes = {
        UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
        UNET + "input_blocks.0.0.bias": (320,),
        at + "attn2.to_k.weight": (320, 768),
        UNET + "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        UNET + "output_blocks.0.0.in_layers.0.weight": (2560,),
        UNET + "out.2.weight": (4, 320, 3, 3),
        UNET + "time_embed.0.weight": (1280, 320),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.decoder.mid.block_1.conv1.weight": (8, 8, 3, 3),
        "model_ema.diffusion_modelout2weight": (4, 320, 3, 3),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_publishing_whole(tmp_path: Path) -> None:
    tensors = _model()
    metadata = {"ss_dataset_dirs": "/home/me/secret", "ss_tag_frequency": "{}", "modelspec.title": "古い", "note": "n"}
    source = saved(tmp_path / "さくらミックス v1.safetensors", tensors, metadata)
    thumbnail = tmp_path / "t.png"
    thumbnail.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    options = PublishOptions(
        title="さくらミックス v1",
        author="A",
        license="CC0-1.0",
        thumbnail=thumbnail,
        remove_private=True,
    )
    out = tmp_path / "out"
    out.mkdir()
    plan = plan_publish(source, out, options)
    assert plan.target == out / "sakuramikkusu-v1.safetensors" and not plan.target.exists()
    assert plan.removed_metadata == ("ss_dataset_dirs", "ss_tag_frequency")
    assert plan.pruned.dropped == {"ema": 1}
    done = publish(source, out, options)
    written = loaded(plan.target)
    assert plan.bytes_out == sum(value.nbytes for value in written.values())
    assert all(same_bits(value, tensors[name].half()) for name, value in written.items())
    assert set(written) == set(tensors) - {"model_ema.diffusion_modelout2weight"}
    assert metadata_of(plan.target) == plan.metadata
    assert plan.metadata["modelspec.title"] == "さくらミックス v1" and plan.metadata["note"] == "n"
    assert plan.metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert plan.metadata["modelspec.prediction_type"] == "epsilon"
    assert plan.metadata["modelspec.resolution"] == "512x512"
    assert plan.metadata["modelspec.thumbnail"].startswith("data:image/png;base64,")
    assert done.hashes.sha256 == hashlib.sha256(plan.target.read_bytes()).hexdigest() == done.result.sha256
    english, japanese = (card.read_text(encoding="utf-8") for card in done.cards)
    for card in (english, japanese):
        assert "さくらミックス v1" in card and "SD1" in card and done.hashes.autov2 in card and "5–7" in card
    assert "- VAE: included" in english and "内蔵" in japanese and "推奨設定" in japanese
    assert (out / "sakuramikkusu-v1.sha256").read_text().split() == [done.hashes.sha256, plan.target.name]
    with pytest.raises(UsageError, match="exist"):
        publish(source, out, options)


def test_the_v_model_says_what_it_wants(tmp_path: Path) -> None:
    tensors = {name: value for name, value in _model().items() if not name.startswith(("first", "model_ema"))}
    at = UNET + "input_blocks.4.1.transformer_blocks.0."
    tensors.pop(UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    tensors.pop(UNET + "input_blocks.1.1.proj_in.weight")
    tensors[at + "attn2.to_k.weight"] = torch.randn(640, 2048)
    tensors[UNET + "label_emb.0.0.weight"] = torch.randn(1280, 2816)
    tensors["v_pred"] = tensors["ztsnr"] = torch.empty(0)
    done = publish(saved(tmp_path / "in.safetensors", tensors), tmp_path, PublishOptions(name="out"))
    assert done.report.prediction.type == "v_prediction"
    english, japanese = (card.read_text(encoding="utf-8") for card in done.cards)
    assert "SGM Uniform" in english and "4–5" in english and "Karras" in english.split("## File")[0]
    assert "not included: use sdxl_vae" in english and "ゼロ終端SNR" in japanese
    assert metadata_of(tmp_path / "out.safetensors")["modelspec.prediction_type"] == "v"
    assert {"v_pred", "ztsnr"} <= set(loaded(tmp_path / "out.safetensors"))


def test_what_stays_unsettled_is_said_before_and_after(tmp_path: Path) -> None:
    """A missing text encoder is no reason not to publish, but it is said."""
    source = saved(tmp_path / "a.safetensors", _model())
    options = PublishOptions(name="b")
    plan = plan_publish(source, tmp_path, options)
    assert any("the clip_l is missing" in fault for fault in plan.unsettled)
    made = publish(source, tmp_path, options)
    assert set(plan.unsettled) <= set(made.result.notes)


def test_what_somebody_wrote_beside_it_is_never_replaced_unasked(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", _model())
    card = tmp_path / "out.ja.md"
    card.write_text("私のカード", encoding="utf-8")
    options = PublishOptions(name="out")
    assert plan_publish(source, tmp_path, options).existing == (card,)
    with pytest.raises(UsageError, match=r"out\.ja\.md"):
        publish(source, tmp_path, options)
    assert card.read_text(encoding="utf-8") == "私のカード"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out.ja.md"]
    publish(source, tmp_path, options, WriteOptions(overwrite=True))
    assert card.read_text(encoding="utf-8") != "私のカード"


def test_hashing_is_part_of_the_progress_and_can_be_stopped(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", {**_model(), UNET + "large": torch.zeros(6 << 20)})
    told: list[tuple[int, int]] = []
    publish(
        source, tmp_path, PublishOptions(name="b"), WriteOptions(progress=lambda done, all_: told.append((done, all_)))
    )
    shares = [done / all_ for done, all_ in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert any(0.5 < share < 1.0 for share in shares)  # the reading back shows
    reading = [share for share in shares if share > 0.5]
    asked = iter(range(10_000))

    def stop() -> bool:
        return next(asked) > len(shares) - len(reading)

    with pytest.raises(Cancelled):
        publish(source, tmp_path, PublishOptions(name="c"), WriteOptions(cancelled=stop))
    assert (tmp_path / "c.safetensors").exists() and not (tmp_path / "c.md").exists()


def test_hashes_by_their_definitions(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", _model(), {"a": "b"})
    raw = source.read_bytes()
    found = hash_file(source)
    assert found.autov2 == hashlib.sha256(raw).hexdigest()[:10]
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert found.autov3 == hashlib.sha256(data).hexdigest()[:12]
    other = saved(tmp_path / "b.safetensors", loaded(source), {"c": "other metadata"})
    assert hash_file(other).autov3 == found.autov3 and hash_file(other).autov2 != found.autov2
    (tmp_path / "c.ckpt").write_bytes(b"PK" + bytes(99))
    assert hash_file(tmp_path / "c.ckpt").autov3 is None


def test_bad_options(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", _model())
    text = tmp_path / "t.txt"
    text.write_text("no picture")
    broken = tmp_path / "b.png"
    broken.write_bytes(b"\x89PNG" + b"x" * 300_000)
    for options, says in (
        (PublishOptions(resolution="big"), "1024x1024"),
        (PublishOptions(thumbnail=text), "no JPEG"),
        (PublishOptions(thumbnail=tmp_path / "none.png"), "cannot be read"),
        (PublishOptions(thumbnail=broken), "cannot be read"),
        (PublishOptions(name="a/b"), "path"),
    ):
        with pytest.raises(UsageError, match=says):
            plan_publish(source, tmp_path, options)
    assert is_private("ss_output_name") and not is_private("modelspec.title")
    assert suggest_name(Path("x/テスト.safetensors")) == "tesuto"


def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    large = tmp_path / "large.png"
    noise = torch.randint(0, 256, (700 * 500 * 3,), dtype=torch.uint8).numpy().tobytes()
    image.frombytes("RGB", (700, 500), noise).save(large)
    assert large.stat().st_size > 256 << 10
    plan = plan_publish(saved(tmp_path / "a.safetensors", _model()), tmp_path, PublishOptions(thumbnail=large))
    kind, _, data = plan.metadata["modelspec.thumbnail"].partition(";base64,")
    picture = base64.b64decode(data)
    assert kind == "data:image/jpeg" and len(picture) <= 256 << 10
    assert max(image.open(io.BytesIO(picture)).size) == 512


def test_sizes_of_packed_types_are_those_on_the_disk(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "sd1")
    kind = gguf.GGMLQuantizationType.Q8_0
    values = torch.randn(64, 320).numpy()
    writer.add_tensor("input_blocks.0.0.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", torch.randn(4, 768).half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    plan = plan_publish(tmp_path / "a.gguf", tmp_path, PublishOptions())
    assert plan.pruned.bytes_before == 64 * 320 // 32 * 34 + 4 * 768 * 2
    assert plan.bytes_out == 2 * (64 * 320 + 4 * 768)


def test_a_name_of_ones_own_is_kept_and_a_plain_one_offered(tmp_path: Path) -> None:
    source = saved(tmp_path / "桜 v1.safetensors", _model(), {"sshs_model_hash": "0", "epoch": "4", "ot_config": "{}"})
    plan = plan_publish(source, tmp_path, PublishOptions(name="さ く", remove_private=True))
    assert plan.target.name == "さ く.safetensors"
    assert any("is not plain ASCII" in note and "v1-" in note for note in plan.notes)
    assert not plan_publish(source, tmp_path, PublishOptions()).notes[1:]
    assert set(plan.removed_metadata) == {"sshs_model_hash", "epoch", "ot_config"}


def test_a_vae_has_no_sampler(tmp_path: Path) -> None:
    write_vae(tmp_path, "v")
    done = publish(tmp_path / "v.safetensors", tmp_path, PublishOptions(name="w"))
    card = (tmp_path / "w.md").read_text(encoding="utf-8")
    assert "Sampler" not in card and "Prediction" not in card and done.hashes.sha256 in card


def test_a_diffusers_folder_is_shared_as_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    checkpoint = saved(tmp_path / "a.safetensors", {name: value for name, value in _model().items() if "ema" not in name
                                                    and "first_stage" not in name})  # fmt: skip
    (folder / "unet").mkdir(parents=True)
    convert(checkpoint, folder / "unet" / "diffusion_pytorch_model.safetensors",
            ConvertJob(only="unet", layout="diffusers"))  # fmt: skip
    assert repair(folder, tmp_path / "r.safetensors", RepairOptions()) == ([], None)
    findings, result = repair(folder, tmp_path / "r.safetensors", RepairOptions(prediction="v"))
    assert result is not None and [finding.id for finding in findings] == ["metadata-prediction"]
    made = publish(folder, tmp_path, PublishOptions(name="out", precision="fp32"))
    assert set(loaded(made.result.path)) == {name.removeprefix(UNET) for name in loaded(checkpoint)}
