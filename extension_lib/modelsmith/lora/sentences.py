"""What the LoRA tools say in errors, in Japanese (see ``modelsmith.japanese``)."""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    "{} is no rank": "{} はランクではありません",
    "Give a whole number, or leave it empty": "整数を入力するか、空欄にしてください",
    "no LoRA is chosen": "LoRA が選ばれていません",
    "Choose a LoRA": "LoRA を選んでください",
    "no LoRA was given": "LoRA が指定されていません",
    "Add one with -l FILE:STRENGTH": "-l ファイル:強さ で指定してください",
    "{} is a GGUF file, whose values are quantised": "{} は GGUF ファイルで、値が量子化されています",
    "Convert it to .safetensors first": "先に .safetensors に変換してください",
    "unknown precision {}": "精度 {} は使えません",
    "Known: {}": "指定できるもの: {}",
    "{} holds quantised tensors, whose scales a change of precision would break": (
        "{} には量子化されたテンソルがあり、精度を変えると倍率が合わなくなります"
    ),
    "Convert it with `modelsmith convert` first": "先に `modelsmith convert` で変換してください",
    "{} modules match nothing in {}: {}": "{} 個のモジュールに対応するものが {} にありません: {}",
    "{} modules match nothing in {}: {} …": "{} 個のモジュールに対応するものが {} にありません: {} …",
    "Leave out --strict to go on without them": "--strict を外すと、それらを除いて続けます",
    "more values were made than the output has room for": "出力の大きさより多くの値が作られました",
    "Report this as a bug": "不具合として報告してください",
    "neither --rank nor --energy was given": "--rank も --energy も指定されていません",
    "at least two LoRAs are needed": "LoRA が二つ以上必要です",
    "To change the rank of one, give --rank or --energy": (
        "一つの LoRA のランクを変えるには --rank か --energy を指定してください"
    ),
    "block weights need a checkpoint": "層別の重みにはチェックポイントが必要です",
    "Bake with block weights, or merge without them": ("層別の重みで焼き込むか、層別の重みなしでマージしてください"),
    "{}: {} is {}, which has no exact sum of small factors": "{}: {} は {} で、小さな因子の和として正確に表せません",
    "Give --rank or --energy to merge by singular values": "--rank か --energy を指定し、特異値でマージしてください",
    "the LoRAs have different shapes for {}: {}": "{} の形が LoRA ごとに違います: {}",
    "the LoRAs have different shapes for {}: {}, {}": "{} の形が LoRA ごとに違います: {}、{}",
    "They were made for different models": "別々のモデル用に作られています",
    "{}: {} is {}, whose effect depends on the checkpoint": "{}: {} は {} で、効果がチェックポイントによって変わります",
    "Bake it into a checkpoint and extract a LoRA from the difference": (
        "チェックポイントに焼き込み、差分から LoRA を取り出してください"
    ),
    "{}: {} has {} values, {} has {}": "{}: {} の値は {} 個、{} は {} 個です",
    "{} was made for {}, {} for {}": "{} は {} 用、{} は {} 用です",
    "Merge LoRAs of one architecture": "同じ構造の LoRA をマージしてください",
    "a DoRA magnitude of {} does not fit a weight of {}": "DoRA の大きさ {} が重み {} に合いません",
    "OFT blocks of {} do not fit a weight of {}": "OFT のブロック {} が重み {} に合いません",
    "BOFT blocks of {} do not fit a weight of {}": "BOFT のブロック {} が重み {} に合いません",
    "{} does not differ from {} in anything that a LoRA can carry": "{} と {} の間に LoRA で表せる違いがありません",
    "Check that the right files were given": "正しいファイルか確認してください",
    "{} is {} and {} is {}": "{} は {}、{} は {} です",
    "Extract from two models of one architecture": "同じ構造の二つのモデルから取り出してください",
    "tensor {} has shape {} in {} and {} in {}": "テンソル {0} の形が {2} では {1}、{4} では {3} です",
    "Extract from two models with the same layers": "同じ層を持つ二つのモデルから取り出してください",
    "tensor {} holds NaN or infinity in one of the models": "一方のモデルのテンソル {} に NaN または無限大があります",
    "Repair that model first": "先にそのモデルを直してください",
    "a rank of {} keeps nothing": "ランク {} では何も残りません",
    "Give at least 1": "1 以上を指定してください",
    "an energy of {} is no share": "エネルギー {} は割合ではありません",
    "Give a number above 0, at most 1": "0 より大きく 1 以下の数値を指定してください",
    "a clamp quantile of {} is out of range": "クランプの分位点 {} が範囲外です",
    "Give a number from 0.5 to 1": "0.5 から 1 の数値を指定してください",
    "{}: none of its {} modules is in {} ({} …)": "{}: {} 個のモジュールのどれも {} にありません（{} …）",
    "The LoRA is for another kind of model": "別の種類のモデル用の LoRA です",
    "{} was made for {}, but {} is {}": "{} は {} 用ですが、{} は {} です",
    "Choose a LoRA for this architecture": "この構造用の LoRA を選んでください",
    "Choose a LoRA for this architecture, or let the shapes alone decide (--any-architecture)": (
        "この構造用の LoRA を選ぶか、形だけで判断させてください（--any-architecture）"
    ),
    "{}: {} has {} values, which is neither the {} rows nor the columns of {} in {}": (
        "{0}: {1} の値は {2} 個で、{5} の {4} の行数 {3} にも列数にも合いません"
    ),
    "The LoRA was made for another model": "別のモデル用に作られた LoRA です",
    "{}: the factors of {} do not fit each other ({})": "{}: {} の因子が互いに合いません（{}）",
    "The LoRA is damaged or of a form that is not known": "LoRA が壊れているか、未知の形式です",
    "{}: {} makes {} × {} values, but {} of {} has {} × {}{}": (
        "{0}: {1} は {2} × {3} の値を作りますが、{5} の {4} は {6} × {7} です{8}"
    ),
    "{}: {} makes {} × {} values, but {} of {} has {} × {} ({})": (
        "{0}: {1} は {2} × {3} の値を作りますが、{5} の {4} は {6} × {7} です（{8}）"
    ),
    "{}: {} makes {} × {} values, but {} of {} has {} × {} there (part of {})": (
        "{0}: {1} は {2} × {3} の値を作りますが、{5} の {4} のその部分は {6} × {7} です（{8} の一部）"
    ),
    "{}: {} has {} values, but {} of {} takes {}": "{0}: {1} の値は {2} 個ですが、{4} の {3} は {5} 個です",
    "tensor {} holds NaN or infinity": "テンソル {} に NaN または無限大があります",
    "Get the LoRA anew": "LoRA を入手し直してください",
    "it holds no LoRA, LoHa, LoKr, OFT or full-difference tensors": (
        "LoRA、LoHa、LoKr、OFT、完全な差分のどのテンソルもありません"
    ),
    "Give a LoRA file here; a checkpoint goes where the model is asked for": (
        "ここには LoRA を指定してください。チェックポイントはモデルの欄に指定します"
    ),
    "module {} has {} but no {}": "モジュール {} に {} はありますが {} がありません",
    "The LoRA is damaged: download it again": "LoRA が壊れています。もう一度ダウンロードしてください",
    "a LoRA was given without a name": "名前のない LoRA が指定されました",
    "Write FILE, FILE:STRENGTH or FILE:STRENGTH:BLOCKS": (
        "ファイル、ファイル:強さ、ファイル:強さ:ブロック のいずれかの形で書いてください"
    ),
    "the strength {} of {} is not finite": "{1} の強さ {0} が有限の数値ではありません",
    "{}: tensor {} is quantised ({}), so {} cannot be added to it": (
        "{}: テンソル {} は量子化されているため（{}）、{} を足せません"
    ),
    "Convert the checkpoint to fp16 or bf16 first (modelsmith convert)": (
        "先にチェックポイントを fp16 か bf16 に変換してください（modelsmith convert）"
    ),
    # ---- why a module was not applied
    "the checkpoint's module has no bias": "チェックポイントのモジュールにバイアスがありません",
    "the checkpoint's module has no weight": "チェックポイントのモジュールに重みがありません",
    "no kind of LoRA tensor that is known here": "未知の形式の LoRA のテンソルです",
    "the checkpoint has no such module": "チェックポイントにこのモジュールがありません",
    "the file has no diffusion model": "ファイルに拡散モデルがありません",
    "the checkpoint has no {} text encoder": "チェックポイントに {} のテキストエンコーダーがありません",
}
