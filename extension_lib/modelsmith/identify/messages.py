"""Every sentence that identification says to a person, in English and Japanese, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ja"]


@dataclass(frozen=True)
class Message:
    """A sentence by its id, with the values it is filled with.

    A value that is words itself may have a second one, whose name ends in ``_ja``, for the Japanese sentence.
    """

    id: str
    params: tuple[tuple[str, str], ...] = ()

    def text(self, language: Language = "en") -> str:
        """The sentence in a language; an unknown language gets English."""
        english, japanese = TABLE[self.id]
        values = dict(self.params)
        if language != "ja":
            return english.format(**values)
        return japanese.format(**{**values, **{n[:-3]: text for n, text in values.items() if n.endswith("_ja")}})


def say(message_id: str, **params: object) -> Message:
    """Make a message. The id must stand in the table: a wrong one raises KeyError at once."""
    if message_id not in TABLE:
        raise KeyError(message_id)
    return Message(message_id, tuple((name, str(value)) for name, value in params.items()))


TABLE: Mapping[str, tuple[str, str]] = {
    # ---- warnings
    "renamed": (
        "The file is not what its ending says: it is {format}.",
        "拡張子と中身が違います。実際の形式は {format} です。",
    ),
    "unsafe": (
        "The pickle asks for {names}. Nothing was executed; a webui that loads it may run that code.",
        "この pickle は {names} を要求しています。ここでは何も実行していませんが、"
        "WebUI で読み込むとコードが実行されるおそれがあります。",
    ),
    "incomplete": (
        "{part}: {missing} of {expected} tensors are missing.",
        "{part}: {expected} 個のテンソルのうち {missing} 個が欠けています。",
    ),
    "partial": (
        "The diffusion model is only a part: its first or its last half is missing.",
        "拡散モデルが一部しか入っていません（前半または後半がありません）。",
    ),
    "reduced": (
        "The layers are narrower than those of the real model: this is a test or toy model.",
        "層の幅が本来のモデルより小さいため、テスト用またはお試し用のモデルです。",
    ),
    "prediction-conflict": (
        "The evidence about the prediction type disagrees: {sources}.",
        "予測タイプについての手がかりが食い違っています: {sources}。",
    ),
    "stray-v-pred": (
        "The tensor v_pred is there, but on {name} nothing else says v-prediction; it may be left over from a merge.",
        "v_pred テンソルがありますが、{name} では他に v-prediction を示すものがなく、マージの名残かもしれません。",
    ),
    "stray-ztsnr": (
        "The tensor ztsnr is there without a v_pred that counts; it may be left over from a merge.",
        "ztsnr テンソルがありますが、有効な v_pred がありません。マージの名残かもしれません。",
    ),
    "ema-both": (
        "It holds a second set of weights (EMA, {size}), which images do not need.",
        "EMA の重み（{size}）も含まれています。画像の生成には不要です。",
    ),
    "ema-only": (
        "It holds only EMA weights; webuis cannot load it as it is.",
        "EMA の重みしか入っていないため、このままでは WebUI で読み込めません。",
    ),
    "training-leftovers": (
        "It holds leftovers of training ({names}), which images do not need.",
        "学習時のデータ（{names}）が残っています。画像の生成には不要です。",
    ),
    "position-ids-dtype": (
        "position_ids is stored as {dtype} instead of int64.",
        "position_ids の型が int64 ではなく {dtype} です。",
    ),
    "position-ids-damaged": (
        "position_ids is damaged: {count} of 77 places are wrong, so prompts are read wrongly.",
        "position_ids が壊れています（77 個中 {count} 個が誤り）。プロンプトが正しく読まれません。",
    ),
    "fp16-sdxl-vae": (
        "The SDXL VAE is stored in fp16; unless it is the fixed one, it can give black images.",
        "SDXL の VAE が fp16 で保存されています。修正版 VAE でない場合、真っ黒な画像になることがあります。",
    ),
    "twice": (
        "{part} is there twice, under {first} and {second}.",
        "{part} が {first} と {second} に重複しています。",
    ),
    "unexpected": (
        "{count} tensors belong to nothing known, for example {example}.",
        "用途の分からないテンソルが {count} 個あります（例: {example}）。",
    ),
    "mixed-metadata": (
        "The metadata says {claimed}, but the tensors are those of {found}.",
        "メタデータには {claimed} とありますが、テンソルは {found} のものです。",
    ),
    "name-hint": (
        "The file name says {hint}; nothing in the file does.",
        "ファイル名には {hint} とありますが、ファイルの中に裏付けはありません。",
    ),
    # ---- advice
    "use-v": (
        "Use it with v-prediction.",
        "v-prediction として使ってください。",
    ),
    "use-v-ztsnr": (
        "Use it with v-prediction and zero terminal SNR; CFG 4 to 6 and a non-Karras schedule suit it.",
        "v-prediction と Zero Terminal SNR で使ってください。CFG は 4〜6、スケジュールは Karras 以外が向いています。",
    ),
    "v-ztsnr-unknown": (
        "Use it with v-prediction. The file does not say whether it was trained with zero terminal SNR: "
        "if images are grey or washed out, switch it on.",
        "v-prediction として使ってください。Zero Terminal SNR で学習されたかは不明です。"
        "画像が灰色っぽい場合はオンにしてみてください。",
    ),
    "undetermined-sd2": (
        "The header does not tell whether it is the 512 base (epsilon) or the 768 model (v-prediction): "
        "if images are noise, set v-prediction for this file.",
        "512 ベース（epsilon）か 768 モデル（v-prediction）かはヘッダーから判別できません。"
        "画像がノイズになる場合は v-prediction を指定してください。",
    ),
    "resolve-conflict": (
        "Try it with one prediction type, and set the other for this file if images are noise.",
        "片方の予測タイプで試し、画像がノイズになる場合はこのファイルにもう一方を指定してください。",
    ),
    "edm-hosts": (
        "It samples on a continuous EDM schedule, which most A1111-family webuis lack.",
        "連続 EDM スケジュールが必要で、多くの A1111 系 WebUI は対応していません。",
    ),
    "refiner": (
        "It is a refiner: use it for the last steps after SDXL base.",
        "リファイナーです。SDXL ベースの後、最後のステップに使ってください。",
    ),
    "inpainting": (
        "It is an inpainting model: use it in img2img inpainting.",
        "インペイント用モデルです。img2img のインペイントで使ってください。",
    ),
    "needs-parts": (
        "It holds only the diffusion model: choose a VAE and text encoders beside it.",
        "拡散モデルのみです。VAE とテキストエンコーダーを別に選んでください。",
    ),
    "needs-vae": (
        "It has no VAE of its own: choose one beside it.",
        "VAE が含まれていません。別に VAE を選んでください。",
    ),
    "needs-text-encoder": (
        "It has no text encoder of its own: choose one beside it.",
        "テキストエンコーダーが含まれていません。別に選んでください。",
    ),
    "same-keys": (
        "The header fits {names}; they have the same tensors, so only the source can tell which it is.",
        "ヘッダーは {names} のいずれにも当てはまります。テンソルが同じため、配布元でしか見分けられません。",
    ),
    "vae-latents": (
        "A VAE for {names}: the header is the same for all of them.",
        "{names} 用の VAE です。ヘッダーからはどれか区別できません。",
    ),
    "lora-base": (
        "Use it with {names} models.",
        "{names} 系のモデルで使ってください。",
    ),
    "lora-unknown-base": (
        "The base model cannot be told from this file; ask its source.",
        "対応するベースモデルはこのファイルからは分かりません。配布元で確認してください。",
    ),
    "controlnet": (
        "Put it into the ControlNet folder; it is not a checkpoint.",
        "ControlNet のフォルダーに置いてください。チェックポイントではありません。",
    ),
    "text-encoder": (
        "Put it into the text_encoder folder; it is not a checkpoint.",
        "text_encoder フォルダーに置いてください。チェックポイントではありません。",
    ),
    "embedding": (
        "Put it into the embeddings folder and write its name in the prompt.",
        "embeddings フォルダーに置き、プロンプトに名前を書いて使います。",
    ),
    "hypernetwork": (
        "Put it into the hypernetworks folder.",
        "hypernetworks フォルダーに置いてください。",
    ),
    "not-loadable": (
        "A1111 and Forge cannot load {name}; ComfyUI can.",
        "A1111 や Forge では {name} を読み込めません。ComfyUI なら使えます。",
    ),
    "delete-unsafe": (
        "Do not load it. Get the model as .safetensors from a source that you trust.",
        "読み込まないでください。信頼できる配布元から .safetensors 形式で入手してください。",
    ),
    "unknown": (
        "It is no model that is known here; ask its source what it is for.",
        "既知のどのモデルにも当てはまりません。配布元で用途を確認してください。",
    ),
    "again": (
        "Download or copy it again: it is not whole.",
        "ファイルが完全ではありません。もう一度ダウンロードまたはコピーしてください。",
    ),
    # ---- evidence: where it was found
    "source-yaml": ("yaml", "yaml ファイル"),
    "source-marker-tensor": ("marker tensor", "マーカーテンソル"),
    "source-metadata": ("metadata", "メタデータ"),
    "source-schedule": ("schedule", "スケジュール"),
    "source-bias-values": ("bias values", "バイアスの値"),
    "source-global_step": ("global_step", "global_step（学習ステップ数）"),
    "source-file-name": ("file name", "ファイル名"),
    "source-family": ("family", "モデルの系統"),
    "source-recipe": ("recipe", "レシピ"),
    # ---- evidence: what it was
    "why-family": ("{label} {variant} models are so", "{label} {variant} のモデルは通常こうです"),
    "why-scaling": ("scaling {kind}Scaling", "スケーリングが {kind}Scaling"),
    "why-yaml-ztsnr": ("zero terminal SNR: true", "Zero Terminal SNR が有効"),
    "why-edm": ("edm_mean and edm_std (Playground 2.5)", "edm_mean と edm_std（Playground 2.5）"),
    "why-ztsnr": ("ztsnr", "ztsnr"),
    "why-ztsnr-alone": ("ztsnr, without a v_pred that counts", "ztsnr（有効な v_pred がない）"),
    "why-foreign": (
        "{name}, which means nothing on {architecture}",
        "{name}（{architecture} では意味を持ちません）",
    ),
    "why-schedule": ("{name} ends at {last}", "{name} の最後の値は {last}"),
    "why-kept-schedule": (
        "{name} ended at {last} before the schedule was dropped",
        "スケジュールを取り除く前の {name} の最後の値は {last}",
    ),
    "why-bias": (
        "spread {spread} of the last block's norm1.bias",
        "最後のブロックの norm1.bias のばらつきが {spread}",
    ),
    "why-steps": ("{steps}, as {name}", "{steps}（{name} と同じ）"),
    "why-recipe": ("what the merge makes of its models", "元のモデルをマージした結果"),
}
