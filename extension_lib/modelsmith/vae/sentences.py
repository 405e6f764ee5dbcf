"""What the VAE tools say in errors and of a VAE, in Japanese (see ``modelsmith.japanese``)."""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    "it is no checkpoint (nothing under model.diffusion_model.), so that a VAE would not be found in it": (
        "チェックポイントではないため（model.diffusion_model. がありません）、VAE を入れても読まれません"
    ),
    "Choose a checkpoint; a bare diffusion model keeps its VAE in a file of its own": (
        "チェックポイントを選んでください。拡散モデルだけのファイルでは VAE は別のファイルに置きます"
    ),
    "it is a VAE of {}, and {} is {}": "{} の VAE ですが、{} は {} です",
    "the family of this VAE cannot be told, and {} needs one of {}": (
        "この VAE の系統はわからず、{} には {} の VAE が必要です"
    ),
    "Choose a VAE of the checkpoint's own family, or say that it is to be baked all the same": (
        "チェックポイントと同じ系統の VAE を選ぶか、それでも入れることを指定してください"
    ),
    "the VAE's tensor {} has NaN or infinite values": "VAE のテンソル {} に NaN または無限大の値があります",
    "The file is damaged or its making overflowed: get the VAE again": (
        "ファイルが壊れているか、作成時にあふれています。VAE を入手し直してください"
    ),
    "the VAE has {} latent channels, {} needs {}": "VAE の潜在チャンネルは {} ですが、{} には {} 必要です",
    "Choose a VAE of the checkpoint's own family": "チェックポイントと同じ系統の VAE を選んでください",
    "the image is smaller than {} pixels": "画像が {} ピクセルより小さいです",
    "Choose a larger one": "もっと大きな画像を選んでください",
    "calibration needs at least one latent of at least 2 x 2": "校正には 2 x 2 以上の潜在画像が一つ以上必要です",
    "calibration images need at least 16 pixels a side": "校正用の画像は一辺 16 ピクセル以上が必要です",
    "images cannot be read without Pillow": "Pillow がないと画像を読めません",
    "Install it, or calibrate without images": "Pillow を入れるか、画像なしで校正してください",
    "it is no readable image": "読める画像ではありません",
    "Choose PNG, JPEG or WebP pictures": "PNG、JPEG、WebP の画像を選んでください",
    "{} is neither an image nor a folder": "{} は画像でもフォルダーでもありません",
    "no headroom was tried": "余裕が一つも指定されていません",
    "a headroom of {} makes no sense": "余裕 {} は指定できません",
    "Choose one from 1 to 1024": "1 から 1024 の間で指定してください",
    "neither the decoder nor the encoder was chosen": "デコーダーもエンコーダーも選ばれていません",
    "there is no VAE in it (nothing under first_stage_model., vae. or decoder.)": (
        "VAE が含まれていません（first_stage_model.、vae.、decoder. のいずれもありません）"
    ),
    "Choose a VAE or a checkpoint with one baked in": "VAE か、VAE 入りのチェックポイントを選んでください",
    "the VAE's tensor {} {}": "VAE のテンソル {}: {}",
    "is missing": "ありません",
    "Choose a complete VAE of SD1, SD2, SDXL, SD3, FLUX.1 or FLUX.2; nothing was written": (
        "SD1、SD2、SDXL、SD3、FLUX.1、FLUX.2 の完全な VAE を選んでください。何も書き出していません"
    ),
    "the VAE has no decoder": "VAE にデコーダーがありません",
    "Choose a file with the whole VAE": "VAE 全体を含むファイルを選んでください",
    "tensor {} shows {}, whose network is another one": "テンソル {} から {} とわかりますが、ネットワークが違います",
    "Choose a VAE of SD1, SD2, SDXL, SD3, FLUX.1 or FLUX.2": (
        "SD1、SD2、SDXL、SD3、FLUX.1、FLUX.2 の VAE を選んでください"
    ),
    "the VAE is quantised (tensor {} is of type {})": "VAE が量子化されています（テンソル {} の型は {}）",
    "Choose the VAE in fp32, bf16 or fp16": "fp32、bf16、fp16 の VAE を選んでください",
    "{} is to be written as safetensors": "{} は safetensors で書き出します",
    "Give it the ending .safetensors": "拡張子を .safetensors にしてください",
    "a VAE cannot be written as {}": "VAE は {} で書き出せません",
    "Choose one of {}": "{} から選んでください",
    "tensor {} has values beyond {}": "テンソル {} に {} を超える値があります",
    "Keep its precision, or use bf16": "精度を変えないか、bf16 を使ってください",
    "{} is the source itself": "{} は元のファイルそのものです",
    "Choose another name for the new file": "新しいファイルは別の名前にしてください",
    "the VAE gives NaN or infinity already in fp32 (on {})": "VAE が fp32 でも NaN または無限大を出します（{}）",
    "The weights are damaged: get the VAE again": "重みが壊れています。VAE を入手し直してください",
    "the VAE's tensor {} is not {} finite values": "VAE のテンソル {} が {} 個の有限の値ではありません",
    "is none that a VAE of this shape has": "この形の VAE にはないテンソルです",
    "is five-dimensional: it is a video VAE": "5 次元です（動画用の VAE です）",
    "belongs to a network of an unknown shape": "形のわからないネットワークのものです",
    "has the shape {} instead of {} dimensions": "形が {} です（本来は {} 次元）",
    "is missing (its shape would be {})": "ありません（形は {} のはずです）",
    "has {} channels, which do not make {} groups": "{} チャンネルは {} 組に分けられません",
    "has the shape {} where {} belongs": "形が {} です（本来は {}）",
    # ---- curing
    "{}: layer {} reaches {}, and no exact factor can lower it": (
        "{}: 層 {} の値が {} に達しますが、正確に下げられる倍率がありません"
    ),
    "Run this VAE in bf16 or fp32": "この VAE は bf16 か fp32 で使ってください",
    "{}: the largest activation is {} ({}), which leaves fp16 a factor of {}": (
        "{}: 最大の活性値は {}（{}）で、fp16 の上限まで {} 倍の余裕があります"
    ),
    "Use the file as it is; nothing was written": "このまま使えます。何も書き出していません",
    "{}: what was written is not what was calculated": "{}: 書き込んだものが計算したものと違います",
    "{}: the scaled VAE's fp32 output differs by {} of its size, more than {}, because groups of its GroupNorms vary "
    "too little": (
        "{}: GroupNorm の組の値の変化が小さすぎるため、処理後の VAE の fp32 出力が {} だけずれます（許容は {}）"
    ),
    "Run this VAE in bf16 or fp32; nothing was written": (
        "この VAE は bf16 か fp32 で使ってください。何も書き出していません"
    ),
    "{}: the scaled VAE still overflows in fp16 on {} (first in {})": (
        "{}: 処理後の VAE も fp16 で {} のときにあふれます（最初は {}）"
    ),
    "{}: the scaled VAE overflows when it is calculated in fp16 itself (on {})": (
        "{}: 処理後の VAE は実際に fp16 で計算すると {} のときにあふれます"
    ),
    # ---- what a VAE is
    "it is {}, made for fp16": "fp16 用に作られた {} です",
    "you say so": "ユーザーの指定",
    "you say so, but its shape is another, which decides": "ユーザーの指定（形が合わないため採用していません）",
    "the {}'s fingerprint {}": "{} の指紋 {}",
    "tensor {} holds only zeros": "テンソル {} の値がすべて 0 です",
    "encoder": "エンコーダー",
    "decoder": "デコーダー",
    "baked into a model of {}": "{} のモデルに入っています",
    "{} latent channels": "潜在チャンネル {} 個",
    "scaling_factor {}": "scaling_factor が {}",
    # ---- what a header tells of fp16
    "the exact fp16 cure was applied to it": "厳密なfp16対応の処理済みです",
    "SDXL's VAE leaves fp16's range": "SDXLのVAEはfp16の範囲を超えます",
    "SDXL's VAE leaves fp16's range if it is one of SDXL": "SDXLのVAEであれば、fp16の範囲を超えます",
    "nothing in its header tells": "ヘッダーからはわかりません",
    "It may run in fp16.": "fp16で使えます。",
    "Measure it; run it in bf16 or fp32, or cure it.": "測定してください。bf16かfp32で使うか、fp16対応にしてください。",
    "Measure it.": "測定してください。",
}

SOURCES: Mapping[str, str] = {
    "said": "指定",
    "told": "以前の情報",
    "sha256": "SHA-256",
    "metadata": "メタデータ",
    "checkpoint": "チェックポイント",
    "config": "設定ファイル",
    "name": "ファイル名",
    "shape": "形",
}
"""Where a clue about a VAE comes from, by the source's id."""
