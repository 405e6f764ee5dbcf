"""The sentences of ``merge.messages``: English and Japanese side by side, with ``{names}`` of what fills them."""

from __future__ import annotations

from collections.abc import Mapping

Pair = tuple[str, str]

TERMS: Mapping[str, Pair] = {
    "epsilon": ("epsilon", "epsilon 予測"),
    "v_prediction": ("v-prediction", "v予測"),
    "edm": ("EDM", "EDM"),
    "edm_v_prediction": ("EDM v-prediction", "EDM v予測"),
    "flow": ("flow", "フロー"),
    "cascade": ("Cascade", "Cascade"),
    "undetermined": ("undetermined", "不明"),
    "with": ("with", "あり"),
    "without": ("without", "なし"),
    "choice-epsilon": ("mark the result as an epsilon model", "結果を epsilon 予測モデルとする"),
    "choice-v_prediction": ("mark the result as a v-prediction model", "結果をv予測モデルとする"),
    "choice-edm": ("mark the result as an EDM model", "結果を EDM モデルとする"),
    "choice-edm_v_prediction": ("mark the result as an EDM v-prediction model", "結果を EDM v予測モデルとする"),
    "choice-flow": ("mark the result as a flow model", "結果をフローモデルとする"),
    "checkpoint": ("a checkpoint", "チェックポイント"),
    "diffusion_model": ("a diffusion model", "拡散モデル"),
    "vae": ("a VAE", "VAE"),
    "text_encoder": ("a text encoder", "テキストエンコーダー"),
    "lora": ("a LoRA", "LoRA"),
    "controlnet": ("a ControlNet", "ControlNet"),
    "textual_inversion": ("a textual inversion embedding", "Textual Inversion の埋め込み"),
    "hypernetwork": ("a hypernetwork", "ハイパーネットワーク"),
    "unknown-architecture": ("of unknown architecture", "不明な構造"),
    "cpu": ("the CPU", "CPU"),
}
"""Words that fill a sentence, where they differ between languages."""

NOTICES: Mapping[str, Pair] = {
    # ---- prediction guard
    "prediction-unknown": (
        "The prediction type of {names} could not be determined; if it differs, the result will not work",
        "{names} の予測タイプを判別できませんでした。ほかのモデルと違う場合、結果は正しく動きません",
    ),
    "mixed-blocks": (
        "Blocks {blocks} mix an epsilon with a v-prediction model; the output blocks are {name}'s alone, so that the "
        "result is {type}",
        "ブロック {blocks} では epsilon 予測とv予測のモデルが混ざりますが、出力側のブロックは {name} だけのものなので、"
        "結果は {type} になります",
    ),
    "by-choice": (
        "Merged across prediction types by your choice ({choice}): {first} and {second} predict different things",
        "指定により、予測タイプの違うモデルをマージします({choice}): {first} と {second} は予測するものが異なります",
    ),
    "difference-unknown": (
        "The prediction type of {names} could not be determined; the result is taken to be A's",
        "{names} の予測タイプを判別できませんでした。結果は A と同じタイプとみなします",
    ),
    "foreign-difference": (
        "B − C was learned as {learned} and is added to a {base} model: it acts fully on detail and differently on "
        "composition (a difference in epsilon counts less at high noise in a v model)",
        "B − C は {learned} で学習された差分で、{base} のモデルに足されます。細部にはそのまま効きますが、構図への"
        "効き方は変わります(v予測モデルでは、epsilon の差分は高ノイズ側で弱まります)",
    ),
    "carries-type": (
        "B − C carries the change from {before} to {after}",
        "B − C は {before} から {after} への変化を含んでいます",
    ),
    "partly-carried": (
        "Blocks {blocks} take only a part of that change",
        "ブロック {blocks} はその変化の一部しか受け取りません",
    ),
    "ztsnr-mixed": (
        "Only {names} is known to have zero terminal SNR; it lives in {blocks}. The result follows {name}, which "
        "weighs most there ({with} ZTSNR)",
        "ゼロ終端SNR(ZTSNR)とわかっているのは {names} だけで、それは {blocks} に現れます。"
        "結果はそこで最も重みの大きい {name} に従います(ZTSNR {with})",
    ),
    "ztsnr-mixed-preset": (
        "Only {names} is known to have zero terminal SNR; it lives in {blocks}. The result follows {name}, which "
        "weighs most there ({with} ZTSNR). To keep ZTSNR give those blocks to {names} alone: the preset {preset} does",
        "ゼロ終端SNR(ZTSNR)とわかっているのは {names} だけで、それは {blocks} に現れます。"
        "結果はそこで最も重みの大きい {name} に従います(ZTSNR {with})。ZTSNR を保つには、プリセット {preset} で"
        "これらのブロックを {names} だけのものにしてください",
    ),
    "ztsnr-kept": (
        "Only {names} is known to have zero terminal SNR; it lives in {blocks}, which are {name}'s alone: the result "
        "is {with} ZTSNR",
        "ゼロ終端SNR(ZTSNR)とわかっているのは {names} だけで、それは {blocks} に現れます。そこは {name} "
        "だけのものなので、"
        "結果は ZTSNR {with} になります",
    ),
    "ztsnr-unknown": (
        "Whether {names} has zero terminal SNR is unknown; the result follows {name} ({with} ZTSNR). If images are "
        "grey, or black and white run over, set ZTSNR for the result by hand",
        "{names} がゼロ終端SNR(ZTSNR)かどうかは不明です。結果は {name} に従います(ZTSNR {with})。画像が灰色っぽい、"
        "または白飛び・黒つぶれする場合は、結果のファイルに ZTSNR を手動で指定してください",
    ),
    "ztsnr-carried": (
        "B − C carries a change of zero terminal SNR; added whole to {blocks}, it makes the result one {with} ZTSNR",
        "B − C はゼロ終端SNR(ZTSNR)の変化を含み、{blocks} に全量足されるため、結果は ZTSNR {with} になります",
    ),
    "ztsnr-partly-carried": (
        "B − C carries a change of zero terminal SNR, which lives in {blocks}, and only a part of it is added there. "
        "The result is taken to be {with} ZTSNR, as {name}. With the preset {preset} it has ZTSNR whole",
        "B − C は {blocks} に現れるゼロ終端SNR(ZTSNR)の変化を含みますが、一部しか足されません。結果は {name} と同じく "
        "ZTSNR {with} とみなします。プリセット {preset} を使うと、結果は完全な ZTSNR になります",
    ),
    # ---- plan
    "widened": (
        "{tensor}: the first {narrow} of {wide} channels are merged, the others are the wide model's",
        "{tensor}: {wide} チャンネルのうち最初の {narrow} だけをマージし、残りはチャンネルの多いモデルのものを使います",
    ),
    "missing-skipped": (
        "{count} tensors that not every model has are left out: {names}",
        "一部のモデルにない {count} 個のテンソルを除きます: {names}",
    ),
    "missing-from-a": (
        "{count} tensors that not every model has are taken from A: {names}",
        "一部のモデルにない {count} 個のテンソルは A のものを使います: {names}",
    ),
    "surplus": (
        "{count} tensors of {model} are not in A and are not used: {names}",
        "{model} の {count} 個のテンソルは A にないため使いません: {names}",
    ),
    "markers-dropped": (
        "Markers that do not hold for the result were dropped: {names}",
        "結果に当てはまらないマーカーを取り除きました: {names}",
    ),
    "rule-unmatched": (
        "The rule {rule!r} for {parameter} holds no tensor",
        "{parameter} の規則 {rule!r} に当てはまるテンソルがありません",
    ),
    "lora-unmatched": (
        "{file}: {count} parts match nothing in the model and have no effect: {names}",
        "{file}: モデルに対応するもののない {count} 個の部分は効果がありません: {names}",
    ),
    "decoded": (
        "{model} is quantised ({schemes}); its values are decoded while they are read and are only as exact as that",
        "{model} は量子化されています({schemes})。値は読み込みながら復元されますが、精度は量子化された値のままです",
    ),
    # ---- run
    "not-finite": (
        "{file}: tensor {tensor!r} has values that are NaN or infinite",
        "{file}: テンソル {tensor!r} に NaN または無限大の値があります",
    ),
    "too-large": (
        "The result: tensor {tensor!r} has values too large for {dtype}",
        "結果: テンソル {tensor!r} に {dtype} では表せない大きさの値があります",
    ),
    "repaired": (
        "{file}: tensor {tensor!r} was damaged and has been repaired (0, 1, 2 …)",
        "{file}: 壊れていたテンソル {tensor!r} を直しました(0, 1, 2 …)",
    ),
    "device-memory": (
        "{device} had too little free memory for some tensors, which the CPU computed; made again, the last bits may "
        "differ",
        "{device} の空きメモリが足りず、一部のテンソルは CPU で計算しました。作り直すと末尾のビットが変わることが"
        "あります",
    ),
    # ---- recipes
    "recipe-version": (
        "The recipe was made by Modelsmith {then}, this is {now}: the bytes may differ",
        "このレシピは Modelsmith {then} で作られ、現在は {now} です。バイト単位では一致しないことがあります",
    ),
    "recipe-device": (
        "What the recipe tells was computed on {then}; here {now} computes it, so the last bits may differ",
        "このレシピの結果は {then} で計算されました。ここでは {now} で計算するため、末尾のビットが異なることがあります",
    ),
    "recipe-lost": (
        "The recipe says {what}, which cannot be expressed here",
        "レシピにある {what} は、ここでは再現できません",
    ),
    "recipe-approximate": (
        "The recipe's {what} is done in fp32 with one rounding here, so values may differ in the last place",
        "レシピの {what} は、ここでは fp32 で計算して最後に一度だけ丸めるため、末尾の桁が変わることがあります",
    ),
    "recipe-embeddings": (
        "That program keeps {what} with BASE, here they follow IN00: their weight was set to match",
        "元のプログラムでは {what} が BASE に属しますが、ここでは IN00 に従うため、同じ重みになるよう設定しました",
    ),
}

ERRORS: Mapping[str, tuple[Pair, Pair]] = {
    # ---- prediction guard: message, remedy
    "mix-eps-v": (
        (
            "{first} is of type {first_type} and {other} of type {other_type}; a mix of their networks predicts "
            "neither",
            "{first} は {first_type}、{other} は {other_type} のモデルです。混ぜたネットワークはどちらも正しく"
            "予測できません",
        ),
        (
            "Use add difference with A = {eps}, B = {v}, C = the epsilon model that {v} was made from (alpha 1); or "
            "take "
            "the blocks OUT, TIME and FINAL from one of them alone (preset {preset}); text encoder and VAE mix freely",
            "「差分を加算」で A = {eps}、B = {v}、C = {v} の元になった epsilon モデル(alpha 1)とするか、ブロック OUT・"
            "TIME・FINAL を一方だけのものにしてください(プリセット {preset})。テキストエンコーダーと VAE は自由に"
            "混ぜられます",
        ),
    ),
    "mix-other": (
        (
            "{first} is of type {first_type} and {other} of type {other_type}; a mix of their networks predicts "
            "neither",
            "{first} は {first_type}、{other} は {other_type} のモデルです。混ぜたネットワークはどちらも正しく"
            "予測できません",
        ),
        (
            "Merge only their text encoders or VAE (preset PARTS_ONLY: weight 0 for the network), or choose models of "
            "one type",
            "テキストエンコーダーと VAE だけをマージするか(プリセット PARTS_ONLY: ネットワークの重みを 0 に)、同じ予測"
            "タイプのモデルを選んでください",
        ),
    ),
    "difference-part": (
        (
            "B − C turns {before} into {after}, and is added to {a} by a part only",
            "B − C は {before} を {after} に変える差分ですが、{a} に一部しか足されません",
        ),
        (
            "Use alpha 1 for the whole network, or at least for the blocks OUT, TIME and FINAL (preset {preset}), or "
            "a C "
            "of B's type",
            "ネットワーク全体、少なくともブロック OUT・TIME・FINAL の alpha を 1 にするか(プリセット {preset})、C に "
            "B と"
            "同じ予測タイプのモデルを使ってください",
        ),
    ),
    "difference-base": (
        (
            "B − C turns {before} into {after}, but {a} is {base}",
            "B − C は {before} を {after} に変える差分ですが、{a} は {base} です",
        ),
        (
            "Use a C of B's type ({after}), or an A of C's type ({before})",
            "C に B と同じ予測タイプ({after})のモデルを、または A に C "
            "と同じ予測タイプ({before})のモデルを使ってください",
        ),
    ),
    # ---- plan
    "output-ending": (
        ("the output {name!r} is not named .safetensors", "出力 {name!r} の拡張子が .safetensors ではありません"),
        ("Merges are written as .safetensors", "マージ結果は .safetensors で書き出されます"),
    ),
    "output-folder": (
        ("the output folder {folder} does not exist", "出力フォルダー {folder} がありません"),
        ("Create it first", "先に作成してください"),
    ),
    "output-exists": (
        ("{path} exists already", "{path} は既に存在します"),
        ("Choose another name or allow it to be replaced", "別の名前にするか、上書きを許可してください"),
    ),
    "precision-unknown": (
        ("the precision {name!r} is unknown", "精度 {name!r} は使えません"),
        ("Choose {known}", "{known} から選んでください"),
    ),
    "no-block-weights": (
        ("{method} takes no block weights for {parameter}", "{method} の {parameter} には層別の重みを指定できません"),
        ("Leave them out", "指定を外してください"),
    ),
    "no-rules": (
        ("{method} takes no rules for {parameter}", "{method} の {parameter} には規則を指定できません"),
        ("Rules can be given for {known}", "規則を指定できるのは {known} です"),
    ),
    "shapes": (
        ("tensor {tensor!r} has different shapes: {told}", "テンソル {tensor!r} の形が違います: {told}"),
        (
            "Models with another vocabulary, width or number of channels cannot be merged with each other",
            "語彙・幅・チャンネル数の違うモデルどうしはマージできません",
        ),
    ),
    "missing": (
        (
            "{count} tensors of {path} are missing in another model: {names}",
            "{path} の {count} 個のテンソルが別のモデルにありません: {names}",
        ),
        ("Choose to take them from A, or to leave them out", "A のものを使うか、除くかを選んでください"),
    ),
    # ---- inputs
    "unsafe-pickle": (
        ("its pickle asks for more than tensors", "この pickle はテンソル以外のものを要求しています"),
        ("Get the model as .safetensors", ".safetensors 形式で入手してください"),
    ),
    "not-a-checkpoint": (
        ("model {letter} is {kind}, not a checkpoint", "モデル {letter} は {kind} で、チェックポイントではありません"),
        ("Choose a checkpoint here", "チェックポイントを選んでください"),
    ),
    "unknown-kind": (
        ("model {letter} is of no known kind", "モデル {letter} の種類がわかりません"),
        ("Choose a checkpoint that Inspect names", "「調べる」で名前が表示されるチェックポイントを選んでください"),
    ),
    "recipe-as-model": (
        (
            "model {letter} is a recipe checkpoint, which holds no weights",
            "モデル {letter} はレシピだけのファイルで、重みを含みません",
        ),
        ("Save it as a file first", "先に通常のファイルとして保存してください"),
    ),
    "quantised": (
        ("model {letter} is quantised ({scheme})", "モデル {letter} は量子化されています({scheme})"),
        (
            "Use its fp16, bf16, fp32 or fp8 form, or one in NF4, FP4 or GGUF",
            "fp16・bf16・fp32・fp8、または NF4・FP4・GGUF の形式のものを使ってください",
        ),
    ),
    "kinds-differ": (
        (
            "{first} is {first_kind} and {other} is {other_kind}",
            "{first} は {first_kind}、{other} は {other_kind} です",
        ),
        ("Merge models of one kind", "同じ種類のモデルをマージしてください"),
    ),
    "architectures-differ": (
        (
            "{first} is {first_name} and {other} is {other_name}: their tensors do not correspond",
            "{first} は {first_name}、{other} は {other_name} で、テンソルが対応しません",
        ),
        ("Merge models of one architecture", "同じ構造のモデルをマージしてください"),
    ),
    # ---- rules, adjustments
    "rule-form": (
        ("the rule {rule!r} is not BLOCKS:ELEMENTS:RATIO", "規則 {rule!r} は「ブロック:要素:比率」の形ではありません"),
        (
            "Write for example OUT03-OUT05:attn2 attn1.to_out:0.5, or /REGULAR EXPRESSION/:0.5",
            "例: OUT03-OUT05:attn2 attn1.to_out:0.5、または /正規表現/:0.5",
        ),
    ),
    "rule-ratio": (
        (
            "the ratio {value!r} of the rule {rule!r} is no number",
            "規則 {rule!r} の比率 {value!r} は数値ではありません",
        ),
        (
            "Give a number, such as 0.5; supermerger's random ratios (R, U, X) have to be drawn beforehand",
            "0.5 のような数値を指定してください。supermerger のランダム比率(R・U・X)は先に数値に置き換えてください",
        ),
    ),
    "rule-block": (
        (
            "the rule {rule!r} names the block {name!r}, which {layout} has not",
            "規則 {rule!r} のブロック {name!r} は {layout} にありません",
        ),
        ("{near}Blocks: {known}", "{near}ブロック: {known}"),
    ),
    "rule-range": (
        ("the range {name!r} of the rule {rule!r} runs backwards", "規則 {rule!r} の範囲 {name!r} は順序が逆です"),
        ("Write it as {turned}", "{turned} と書いてください"),
    ),
    "rule-empty-not": (
        ("the rule {rule!r} has a NOT with nothing after it", "規則 {rule!r} の NOT の後に何もありません"),
        ("Name what is excluded, as in NOT OUT04", "NOT OUT04 のように、除くものを書いてください"),
    ),
    "rule-regex": (
        (
            "the regular expression of the rule {rule!r} cannot be read: {problem}",
            "規則 {rule!r} の正規表現を読めません: {problem}",
        ),
        ("Correct it; a slash inside is written \\/", "正規表現を直してください。中のスラッシュは \\/ と書きます"),
    ),
    "finetune-number": (
        ("the adjustment {text!r} is no number", "調整値 {text!r} は数値ではありません"),
        (
            "Give up to eight numbers (IN, OUT, OUT2, contrast, brightness, three colours) or NAME=value",
            "最大 8 個の数値(IN, OUT, OUT2, コントラスト, 明るさ, 色 3 つ)、または NAME=値 で指定してください",
        ),
    ),
    "finetune-order": (
        (
            "the number {text!r} stands after {named!r} without a name",
            "{named!r} の後に名前のない数値 {text!r} があります",
        ),
        (
            "Write decimals with a point, as in CONT=0.5, and numbers without a name first",
            "小数は CONT=0.5 のように点(.)で書き、名前のない数値は先に並べてください",
        ),
    ),
    "finetune-count": (
        ("{count} adjustments were given", "調整値が {count} 個あります"),
        (
            "Give up to eight: IN, OUT, OUT2, contrast, brightness, three colours",
            "最大 8 個です: IN, OUT, OUT2, コントラスト, 明るさ, 色 3 つ",
        ),
    ),
    "finetune-architecture": (
        (
            "adjustments after the merge were given, but {name} is no SD1, SD2 or SDXL model",
            "マージ後の調整が指定されましたが、{name} は SD1・SD2・SDXL のモデルではありません",
        ),
        (
            "Leave them out: they change the first and the last convolution of a UNet",
            "指定を外してください。UNet の最初と最後の畳み込みを変える調整です",
        ),
    ),
    # ---- recipes
    "recipe-none": (
        ("it holds no recipe of a merge", "マージのレシピが含まれていません"),
        (
            "Give a model that was merged by Modelsmith, A1111, supermerger or sd-mecha, or a recipe file",
            "Modelsmith・A1111・supermerger・sd-mecha でマージしたモデルか、レシピのファイルを指定してください",
        ),
    ),
    "recipe-damaged": (
        ("the recipe cannot be read: {problem}", "レシピを読めません: {problem}"),
        ("Give the recipe as it was written", "書き出されたままのレシピを指定してください"),
    ),
    "recipe-newer": (
        (
            "the recipe has version {found}, this program reads up to {known}",
            "レシピのバージョンは {found} ですが、このプログラムで読めるのは {known} までです",
        ),
        ("Update Modelsmith", "Modelsmith を更新してください"),
    ),
    "recipe-input": (
        (
            "no model with the SHA-256 {digest} was found for {name!r}",
            "{name!r} の SHA-256 {digest} に一致するモデルが見つかりません",
        ),
        (
            "Add the folder that holds it (it may have another name){rebuild}",
            "そのモデルのあるフォルダーを追加してください(名前は違っていてもかまいません){rebuild}",
        ),
    ),
    "recipe-rebuilt": (
        (
            "{name!r} was rebuilt from its recipe, but its SHA-256 is {found} and not {wanted}",
            "{name!r} をレシピから作り直しましたが、SHA-256 が {wanted} ではなく {found} になりました",
        ),
        (
            "It was made by another version or edited later; get the file itself",
            "別のバージョンで作られたか、後で編集されています。元のファイルを入手してください",
        ),
    ),
    "recipe-rebuilt-device": (
        (
            "{name!r} was rebuilt from its recipe, but its SHA-256 is {found} and not {wanted}: it was computed on "
            "{then}, and here on {now}, which may give other last bits",
            "{name!r} をレシピから作り直しましたが、SHA-256 が {wanted} ではなく {found} になりました。元のファイルは "
            "{then} で、ここでは {now} で計算されたため、末尾のビットが異なることがあります",
        ),
        (
            "Get the file itself, or rebuild it where such a GPU is",
            "元のファイルを入手するか、同じ GPU のある環境で作り直してください",
        ),
    ),
    "recipe-method": (
        ("{program}'s method {name!r} has no counterpart here", "{program} の方式 {name!r} に対応するものがありません"),
        ("Merge by hand with one of: {known}", "次の方式のいずれかで手動でマージしてください: {known}"),
    ),
}
"""Errors: the message and the remedy, each in both languages."""
