"""A short model card in Markdown, in English or Japanese, from what was identified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelsmith.convert.hashes import Hashes
from modelsmith.identify import Report
from modelsmith.identify.report import LABELS

Language = Literal["en", "ja"]


@dataclass(frozen=True)
class CardFacts:
    """What the file does not say about itself."""

    title: str
    author: str | None
    license: str | None
    file: str
    hashes: Hashes


_TEXTS: Mapping[str, tuple[str, str]] = {
    "author": ("Author", "作者"),
    "license": ("Licence", "ライセンス"),
    "family": ("Family", "系統"),
    "prediction": ("Prediction", "予測方式"),
    "precision": ("Precision", "精度"),
    "unknown": ("not stated", "記載なし"),
    "settings": ("## Recommended settings", "## 推奨設定"),
    "file": ("## File", "## ファイル"),
    "sampler": ("Sampler", "サンプラー"),
    "schedule": ("Schedule type", "スケジュールタイプ"),
    "cfg": ("CFG scale", "CFGスケール"),
    "size": ("Size", "サイズ"),
    "vae": ("VAE", "VAE"),
    "v": ("v-prediction", "v-prediction(速度予測)"),
    "v_zero": ("v-prediction, zero terminal SNR", "v-prediction(速度予測)、ゼロ終端SNR"),
    "epsilon": ("epsilon (the usual one)", "epsilon(通常)"),
    "flow": ("flow matching", "フローマッチング"),
    "edm": ("EDM", "EDM"),
    "edm_v": ("EDM v-prediction", "EDM v-prediction"),
    "undetermined": (
        "not stated in the file: epsilon or v-prediction",
        "ファイルからは不明(epsilonまたはv-prediction)",
    ),
    "vae_inside": ("included", "内蔵"),
    "vae_fp16": (
        "included, in fp16: use bf16 or fp32 for it, or a VAE made for fp16, if pictures come out black",
        "内蔵(fp16)。画像が黒くなる場合は、VAEをbf16かfp32で使うか、fp16対応のVAEを使ってください",
    ),
    "vae_sd": ("not included: use vae-ft-mse-840000-ema-pruned", "なし: vae-ft-mse-840000-ema-prunedを使ってください"),
    "vae_sdxl": ("not included: use sdxl_vae", "なし: sdxl_vaeを使ってください"),
    "vae_other": ("not included: use that of the family", "なし: 系統のVAEを使ってください"),
    "note_v": (
        "The model needs a webui that is set to v-prediction. Markers in the file and its metadata say so to programs"
        " that read them.",
        "v-predictionの設定が必要なモデルです。ファイル内のマーカーとメタデータを読むプログラムでは自動で設定されます。",
    ),
    "note_zero": (
        "With zero terminal SNR the schedules Karras, Exponential and Beta spoil the picture.",
        "ゼロ終端SNRのため、Karras・Exponential・Betaのスケジュールでは画像が崩れます。",
    ),
}
_PREDICTIONS = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "flow": "flow",
    "cascade": "epsilon",
    "edm": "edm",
    "edm_v_prediction": "edm_v",
    "undetermined": "undetermined",
}
_SIZES = {"sd1": "512×512 – 768×768", "sd2": "512×512 – 768×768"}


def model_card(report: Report, facts: CardFacts, language: Language) -> str:
    """The card as Markdown. Settings follow the prediction type and the family, not the author's taste.

    For v models with zero terminal SNR: Euler with SGM Uniform or Normal and CFG 4 to 5, as the authors of NoobAI-XL
    v-pred advise; Karras, Exponential and Beta put most steps far above the useful noise levels there (computed).
    """
    at = 1 if language == "ja" else 0

    def text(key: str) -> str:
        return _TEXTS[key][at]

    prediction = _PREDICTIONS[report.prediction.type]
    zero = prediction == "v" and report.prediction.zero_terminal_snr is True
    colon = ":" if language == "ja" else ": "
    title = facts.title.replace("\n", " ").strip()
    makes_pictures = report.kind in ("checkpoint", "diffusion_model")
    rows = [f"# {title}", ""]
    rows += [
        f"- {text('author')}{colon}{facts.author or text('unknown')}",
        f"- {text('license')}{colon}{facts.license or text('unknown')}",
        f"- {text('family')}{colon}{_family(report)}",
        *([f"- {text('prediction')}{colon}{text('v_zero' if zero else prediction)}"] if makes_pictures else []),
        f"- {text('precision')}{colon}{report.quantization or report.precision or '?'}",
    ]
    if makes_pictures:
        rows += ["", text("settings"), ""]
        rows += [f"- {text(key)}{colon}{value}" for key, value in _settings(report, prediction, zero)]
        rows.append(f"- {text('vae')}{colon}{text(_vae(report))}")
    if makes_pictures and prediction == "v":
        rows += ["", text("note_v") + (" " if at == 0 else "") * zero + (text("note_zero") if zero else "")]
    rows += ["", text("file"), "", f"- `{facts.file}`", f"- SHA-256{colon}`{facts.hashes.sha256}`"]
    rows.append(f"- AutoV2{colon}`{facts.hashes.autov2}`")
    if facts.hashes.autov3:
        rows.append(f"- AutoV3{colon}`{facts.hashes.autov3}`")
    return "\n".join(rows) + "\n"


def _family(report: Report) -> str:
    names = (report.architecture,) if report.architecture else report.candidates
    return " / ".join(LABELS.get(name, name) for name in names if name) or "?"


def _settings(report: Report, prediction: str, zero: bool) -> list[tuple[str, str]]:
    if prediction in ("flow", "edm", "edm_v"):
        return [("sampler", "Euler"), ("schedule", "Simple")]
    size = ("size", _SIZES.get(report.architecture or "", "1024×1024"))
    if zero:
        return [("sampler", "Euler, Euler a"), ("schedule", "SGM Uniform, Normal"), ("cfg", "4–5"), size]
    if prediction == "v":
        return [("sampler", "Euler, Euler a"), ("schedule", "SGM Uniform, Normal"), ("cfg", "4–7"), size]
    return [("sampler", "Euler a, DPM++ 2M"), ("schedule", "Karras, Automatic"), ("cfg", "5–7"), size]


def _vae(report: Report) -> str:
    sdxl = report.architecture in ("sdxl", "sdxl-refiner")
    for part in report.components:
        if part.name.startswith("vae"):
            return "vae_fp16" if sdxl and part.precision == "fp16" and not part.known_as else "vae_inside"
    if sdxl:
        return "vae_sdxl"
    return "vae_sd" if report.architecture in ("sd1", "sd2") else "vae_other"
