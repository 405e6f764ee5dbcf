"""What conversion, repair and publishing say to people, in Japanese (see ``modelsmith.japanese``)."""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    # ---- command line, folders
    "--ema and --keep-schedule say how to prune": "--ema と --keep-schedule は不要部分の除き方の指定です",
    "Add --prune": "--prune を付けてください",
    "{} does not end in .safetensors": "{} の拡張子が .safetensors ではありません",
    "Outputs are written in that format only": "出力はこの形式だけです",
    "a folder needs an output folder": "フォルダーの変換には出力フォルダーが必要です",
    "Give one with --output": "--output で指定してください",
    "{} is no folder": "{} はフォルダーではありません",
    "A folder of models needs a folder for the outputs": "モデルのフォルダーには出力用のフォルダーが必要です",
    "{} is the folder itself": "{} は元のフォルダーそのものです",
    "Choose another folder; the originals are never changed": (
        "別のフォルダーを選んでください（元のファイルは変えません）"
    ),
    "--put {} names no file": "--put {} にファイルの指定がありません",
    "Write it as vae=FILE": "vae=ファイル の形で書いてください",
    "Choose a folder": "フォルダーを選んでください",
    "the journal cannot be read ({})": "作業記録を読めません（{}）",
    "Remove it": "削除してください",
    "{} cannot be made ({})": "{} を作れません（{}）",
    "Choose another": "別のものを選んでください",
    "Create it first": "先に作成してください",
    "--name, --title and --thumbnail are for one model": "--name、--title、--thumbnail は一つのモデル用です",
    "Leave them out for a folder": "フォルダーでは指定しないでください",
    # ---- the Convert view
    "no file is chosen": "ファイルが選ばれていません",
    "Choose one": "一つ選んでください",
    "Choose it": "選んでください",
    "{} files are chosen, and this is done one file at a time": (
        "ファイルが {} 個選ばれていますが、これは一つずつ行います"
    ),
    "{} holds no such model file": "{} に該当するモデルファイルはありません",
    "Choose again, or change the words": "選び直すか、言葉を変えてください",
    "no spelling is chosen": "名前の形式が選ばれていません",
    "Choose the original names or those of diffusers": "元の名前か diffusers の名前を選んでください",
    "the file that gives the part is not chosen": "部分の取り出し元のファイルが選ばれていません",
    "both are the same file": "同じファイルです",
    "Choose another one to compare with": "比べる相手に別のファイルを選んでください",
    "the file to compare with is not chosen": "比べるファイルが選ばれていません",
    "a title and a picture are for one file": "タイトルと画像は一つのファイル用です",
    "Leave them empty for several": "複数のファイルでは空のままにしてください",
    # ---- comparing
    "the list of hashes cannot be read ({})": "ハッシュの一覧を読めません（{}）",
    "line {} of {} holds no hash and name": "{1} の {0} 行目にハッシュと名前がありません",
    "Write HASH  NAME on each line": "各行を「ハッシュ  名前」の形で書いてください",
    # ---- parts
    "Choose a model of the SD1, SD2 or SDXL family": "SD1、SD2、SDXL 系のモデルを選んでください",
    "{} is of no family whose original names are known": "{} は元の名前がわかる系統ではありません",
    "{} holds {} parts; diffusers' names are for one": "{} には {} 個の部分がありますが、diffusers の名前は一つ用です",
    "Take one out, for instance with --only unet": "一つだけ取り出してください（例: --only unet）",
    "it holds no {}": "{} が含まれていません",
    "Choose another file or another part": "別のファイルか別の部分を選んでください",
    "it holds nothing but its {}": "{} 以外は含まれていません",
    "Keep at least one part": "一つ以上の部分を残してください",
    "{} is of no family whose parts can be exchanged": "{} は部分を入れ替えられる系統ではありません",
    "a model of the family {} has no place for {}": "{} 系のモデルには {} の場所がありません",
    "Choose another part": "別の部分を選んでください",
    "the UNet tensor {} has no name in the {} spelling": "UNet のテンソル {} に {} 形式での名前がありません",
    "tensor {} is {} in {} and {} in {}": "テンソル {0} の形が {2} では {1}、{4} では {3} です",
    "Choose a part of the same family": "同じ系統の部分を選んでください",
    "{} has the encoders {}": "{} にはエンコーダー {} があります",
    "Choose one of them by name": "名前で一つ選んでください",
    "{} is of another family than {}": "{} は {} と系統が違います",
    "Choose a UNet of the same family": "同じ系統の UNet を選んでください",
    "the VAE of {} is one of {}, and {} is {}": "{} の VAE は {} のもので、{} は {} です",
    "Choose a VAE of the same family, or bake it in and say that it is to be baked all the same": (
        "同じ系統の VAE を選ぶか、VAE の組み込みで、それでも入れる指定をしてください"
    ),
    "{} is a diffusers folder of a family that has no checkpoints of one file": (
        "{} は、一つのファイルのチェックポイントがない系統の diffusers フォルダーです"
    ),
    "Convert its parts one by one: {}": "部分ごとに変換してください: {}",
    # ---- quantised models
    "Download the file again, or use another copy of the model": (
        "もう一度ダウンロードするか、別の入手元のものを使ってください"
    ),
    "Download the file again, or use another copy": "もう一度ダウンロードするか、別の入手元のものを使ってください",
    "Use the unquantised model, or one in fp8, int8, nvfp4, mxfp8, NF4, FP4 or GGUF": (
        "量子化されていないモデルか、fp8・int8・nvfp4・mxfp8・NF4・FP4・GGUF のものを使ってください"
    ),
    "the state of tensor {} makes no sense": "テンソル {} の量子化の情報が不正です",
    "the nested tables of tensor {} are incomplete": "テンソル {} の入れ子の表が足りません",
    "tensor {} does not hold {} four-bit values": "テンソル {} に 4 ビットの値が {} 個ありません",
    "the tables of tensor {} have the wrong length": "テンソル {} の表の長さが違います",
    "the state of tensor {} cannot be read ({})": "テンソル {} の量子化の情報を読めません（{}）",
    "tensor {} is quantised as {}, which cannot be read back": ("テンソル {} は {} で量子化されており、元に戻せません"),
    "tensor {} is of the GGUF type {}, which cannot be read back": "テンソル {} は GGUF の型 {} で、元に戻せません",
    "Use a file in one of {}": "{} のいずれかのファイルを使ってください",
    "the scale of tensor {} has {} values for {} rows": "テンソル {} の倍率は {} 個ですが、行は {} 個です",
    "is no matrix of {} values": "{} の値の行列ではありません",
    "is no single number": "一つの数値ではありません",
    "has a scale of the shape {}, which does not fit": "倍率の形 {} が合いません",
    "has {} bytes where {} belong": "{} バイトあります（本来は {} バイト）",
    "it does not say how many attention heads it has": "アテンションのヘッド数が書かれていません",
    "Use another copy of the model": "別の入手元のものを使ってください",
    "tensor {} is none of a {} text encoder": "テンソル {} は {} のテキストエンコーダーのものではありません",
    "Use it in GGUF as it is": "GGUF のまま使ってください",
    # ---- models
    "tensor {} has a shape but no values": "テンソル {} には形だけがあり、値がありません",
    "Use a whole copy of the model": "完全なモデルを使ってください",
    "it lacks tensor {}, which others need": "ほかのテンソルに必要な {} がありません",
    "Download it again": "もう一度ダウンロードしてください",
    "{} is the input itself": "{} は入力のファイルそのものです",
    "Choose another name; the original is never changed": "別の名前にしてください（元のファイルは変えません）",
    "there is no tensor in it that can be read": "読み取れるテンソルがありません",
    "no tensor would be left to write": "書き出すテンソルが残りません",
    # ---- precision
    "{} lies in a part of a checkpoint for which the scaled fp8 form is not defined": (
        "{} は scaled fp8 の形式が定義されていない部分にあります"
    ),
    "Use fp8_scaled for the unet only, for instance unet=fp8_scaled,te=fp16": (
        "fp8_scaled は unet だけに使ってください（例: unet=fp8_scaled,te=fp16）"
    ),
    "{} names no precision": "{} に精度の指定がありません",
    "Write for instance fp16 or unet=fp8_e4m3,te=fp16": "例: fp16、または unet=fp8_e4m3,te=fp16",
    "the part {} has two precisions in {}": "部分 {} の精度が {} の中で二度指定されています",
    "Give one": "一つだけ指定してください",
    # ---- pruning
    "nothing but what is pruned would be left": "除くものしか含まれていません",
    "Keep the EMA weights of this file": "このファイルの EMA の重みを残してください",
    "it has no UNet with EMA weights beside it": "EMA の重みを伴う UNet がありません",
    "the EMA weight {} belongs to no UNet that is known": "EMA の重み {} は、既知のどの UNet のものでもありません",
    "Use a file with the UNet": "UNet を含むファイルを使ってください",
    "Prune it with the EMA dropped": "EMA を捨てる設定で不要部分を除いてください",
    "Prune with the EMA dropped": "EMA を捨てる設定で不要部分を除いてください",
    "{} of {} UNet tensors have no EMA weight, the first is {}": (
        "UNet のテンソル {1} 個のうち {0} 個に EMA の重みがありません（最初は {2}）"
    ),
    "the EMA weight of {} has another shape": "{} の EMA の重みの形が違います",
    # ---- publishing
    "what was read back is not what was written": "書き込んだものと読み戻したものが違います",
    "Check the disk and repeat": "ディスクを確認して、やり直してください",
    "{} exist already in {}": "{} は {} に既に存在します",
    "Choose another name or allow replacing": "別の名前にするか、上書きを許可してください",
    "the resolution {} is none": "解像度 {} は正しい形ではありません",
    "Write it as 1024x1024": "1024x1024 の形で書いてください",
    "the thumbnail {} is no JPEG, PNG or WebP picture": "サムネイル {} は JPEG・PNG・WebP の画像ではありません",
    "the thumbnail {} has {} bytes": "サムネイル {} は {} バイトあります",
    "Make it smaller than {}": "{} バイト未満にしてください",
    "the thumbnail {} cannot be read ({})": "サムネイル {} を読めません（{}）",
    "its {} packed bytes claim to be {}": "圧縮された {} バイトが {} バイトになると書かれています",
    "Do not use this file": "このファイルは使わないでください",
    "it cannot be unpacked ({})": "展開できません（{}）",
    "the file name {} is not plain ASCII without spaces, as {} would be": (
        "ファイル名 {} に ASCII 以外の文字か空白があります（候補: {}）"
    ),
    "the prediction {} is unknown": "予測タイプ {} は不明です",
    "Write one of {}": "{} のいずれかを指定してください",
    # ---- notes
    "the pickle asks for {}; none of it was executed, only the tensors were taken": (
        "この pickle は {} を要求していますが、何も実行せず、テンソルだけを取り出しました"
    ),
    "{} beside the weights will not be written": "重みと別にある {} は書き出しません",
    "the EMA weights of {} of {} UNet tensors are the weights now": (
        "UNet のテンソル {1} 個のうち {0} 個を EMA の重みに置き換えました"
    ),
    "the dropped alphas_cumprod ended at {}; this is kept as metadata": (
        "取り除いた alphas_cumprod の最後の値 {} はメタデータに残します"
    ),
    "the names of llama.cpp ({}) became those of transformers": (
        "llama.cpp（{}）の名前を transformers のものに直しました"
    ),
    "{} tensors belong to no known part and were left out": "どの部分のものかわからないテンソル {} 個を省きました",
    "the marker {} was added: the folder's scheduler says so": (
        "フォルダーのスケジューラーの設定に従い、マーカー {} を追加しました"
    ),
    "{} ({} tensors) was taken from {}": "{0}（テンソル {1} 個）を {2} から取り込みました",
    "the markers ({}) follow the UNet of {}": "マーカー（{}）は {} の UNet に合わせました",
    # ---- findings
    "{} text encoder tensors lack text_model. in their names (NovelAI's and other early files, and encoders that "
    "transformers 5 saved)": (
        "テキストエンコーダーのテンソル {} 個の名前に text_model. がありません"
        "（NovelAI などの初期のファイルや、transformers 5 で保存したエンコーダー）"
    ),
    "for instance {}": "例: {}",
    "dropped, since the file has them under the full names too": "完全な名前のものもあるため、取り除きます",
    "renamed": "名前を直します",
    "added": "追加します",
    "removed": "取り除きます",
    "set to {}": "{} にします",
    "set to 0 … {} as int64": "int64 の 0 … {} にします",
    "moved to {}": "{} に移します",
    "taken from {}": "{} から取り込みます",
    "{} is float32, the mark of an Add difference merge before January 2023": (
        "{} が float32 です（2023 年 1 月より前の Add difference マージの跡）"
    ),
    "its values are right, but a host or a further merge will round them": (
        "値は正しいものの、WebUI での読み込みや次のマージで丸められます"
    ),
    "{} was merged as floats and cut to whole numbers: {} of {} positions are wrong": (
        "{0} は小数でマージされた後に整数へ切り捨てられ、{2} 個のうち {1} 個の位置が誤っています"
    ),
    "{} was merged as floats and left as {}: {} of {} positions are wrong": (
        "{0} は小数でマージされて {1} のまま残り、{3} 個のうち {2} 個の位置が誤っています"
    ),
    "the first is position {}, which holds {}": "最初は位置 {} で、値は {} です",
    "{} has {} positions, and its encoder {}": "{0} の位置は {1} 個ですが、エンコーダーの位置は {2} 個です",
    "the position embedding beside it has a row for each": "同じ場所の位置の埋め込みの行数からわかります",
    "{} is {} instead of I64": "{} の型が I64 ではなく {} です",
    "its values are right when cut to whole numbers": "小数を切り捨てれば正しい値です",
    "you said so ({})": "ユーザーの指定（{}）",
    "no evidence for it in the file": "ファイルの中に手がかりはありません",
    "the evidence about the prediction disagrees": "予測タイプの手がかりが食い違っています",
    "the marker {} is missing": "マーカー {} がありません",
    "the marker {} is on a model that it does not fit": "マーカー {} がこのモデルに合いません",
    "the marker {} stands under the model's prefix, where hosts do not look": (
        "マーカー {} が UNet の接頭辞の下にあり、WebUI から見えません"
    ),
    "the metadata field {} is missing": "メタデータに {} がありません",
    "a model of this kind has no prediction type that could be stated": (
        "この種類のモデルには、書き込める予測タイプがありません"
    ),
    "the metadata field {} says {}": "メタデータの {} が {} になっています",
    "the metadata field modelspec.architecture says {}": "メタデータの modelspec.architecture が {} になっています",
    "the cross attention of its UNet, or its text encoders, are those of {}": (
        "UNet のクロスアテンションまたはテキストエンコーダーは {} のものです"
    ),
    "the {} is there twice": "{} が二つあります",
    "text encoder": "テキストエンコーダー",
    "{} tensors begin with {} beside those of {}": "{2} のほかに、{1} で始まるテンソルが {0} 個あります",
    "{} tensors begin with {}, and only {} with {}, where hosts look": (
        "{1} で始まるテンソルが {0} 個あり、WebUI が読む {3} には {2} 個しかありません"
    ),
    "none of its tensors are there, nor in {}": "テンソルが一つもなく、{} にもありません",
    "the copy under {} dropped": "{} の下のものを取り除きます",
    "the {} is missing": "{} がありません",
    "a {} checkpoint has one, and none of its tensors are there": (
        "{} のチェックポイントにあるはずのテンソルが一つもありません"
    ),
    # ---- verifying
    "its SHA-256 is {}, not one of those expected": "SHA-256 が {} で、指定されたものと違います",
    "tensor {} holds {} NaN and {} infinite values": "テンソル {} に NaN が {} 個、無限大が {} 個あります",
}
