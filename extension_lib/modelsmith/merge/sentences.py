"""What merging says in errors without an id, in Japanese (see ``modelsmith.japanese``)."""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    # ---- block weights and presets
    "{} block weights were given, {} has {}": "層別の重みが {} 個指定されましたが、{} には {} 個あります",
    "Give them for {} … {}, or as NAME=value": "{} … {} の順に指定するか、NAME=値 の形で指定してください",
    "the weight {} is not finite": "重み {} が有限の数値ではありません",
    "Give a number, usually between 0 and 1": "数値を指定してください（通常は 0 から 1）",
    "the preset {} fits no block of {}": "プリセット {} は {} のどのブロックにも合いません",
    "It is for {}": "{} 用のプリセットです",
    "{} is no number": "{} は数値ではありません",
    "Separate block weights with commas": "層別の重みはコンマで区切ってください",
    "it holds no presets": "プリセットが含まれていません",
    "Mend or delete it": "直すか削除してください",
    "{} cannot be a preset's name": "{} はプリセットの名前にできません",
    "Use up to 64 letters, no comma and no =": "コンマと = を除く 64 文字以内にしてください",
    "the preset {} is a known one": "プリセット {} は既にあるものです",
    "{} cannot be written ({})": "{} に書き込めません（{}）",
    "Check its folder": "フォルダーを確認してください",
    # ---- methods
    "{} is {}, which is no finite number": "{} の値 {} が有限の数値ではありません",
    "Give a number": "数値を指定してください",
    "{} is {}, outside its range": "{} の値 {} が範囲外です",
    "It lies between {} and {}": "{} から {} の間で指定してください",
    "{} is {}, which is no whole number": "{} の値 {} が整数ではありません",
    "Give a whole number": "整数を指定してください",
    "{} takes {} models, {} were given": "{} に必要なモデルの数は {} ですが、{} 個指定されました",
    "Its formula: {}": "計算式: {}",
    "the merge method {} ({}) is declared twice": "マージ方式 {}（{}）が二度宣言されています",
    "{} takes no first pass, or has one already": "{} に事前の走査は要らないか、既にあります",
    "{} does not take what the specification of {} says": "{} の引数が {} の仕様と合いません",
    "{} has two functions": "{} の関数が二つあります",
    "{} has two streamed forms": "{} の分割計算の形が二つあります",
    "{} has {} bytes free, the method keeps {} there while it works": (
        "{} の空きは {} バイトですが、この方式は計算中に {} バイトを置きます"
    ),
    # ---- command line
    "a model is given without the one before it": "前のモデルを指定せずに次のモデルが指定されています",
    "Give -a, -b and -c in this order": "-a、-b、-c の順に指定してください",
    "--preset and --block-weights cannot be given together": "--preset と --block-weights は同時に指定できません",
    "Choose one of them": "どちらか一方にしてください",
    "--save-preset keeps what --block-weights gives, which is missing": (
        "--save-preset は --block-weights の値を保存しますが、その指定がありません"
    ),
    "Give both": "両方を指定してください",
    "Choose another place": "別の場所を選んでください",
    "{} is not NAME=…": "{} は NAME=… の形ではありません",
    "Give for example {}": "例: {}",
    "{} is not NAME=VALUE": "{} は NAME=VALUE の形ではありません",
    "Give for example --set beta=0.3": "例: --set beta=0.3",
    # ---- device, precision, inputs
    "the device {} is unknown": "デバイス {} は不明です",
    "Choose cpu, cuda, cuda:0 or auto": "cpu、cuda、cuda:0、auto から選んでください",
    "there is no GPU {} that torch {} can use": "GPU {0} は torch {1} から使えません",
    "Choose cpu or auto": "cpu か auto を選んでください",
    "{} lies in a checkpoint's text encoder or VAE, for which the scaled fp8 form is not defined": (
        "{} はチェックポイントのテキストエンコーダーか VAE にあり、scaled fp8 の形式は定義されていません"
    ),
    "Use fp8_scaled for the unet only": "fp8_scaled は unet だけに使ってください",
    "it changed after the merge was planned": "マージの計画を立てた後にファイルが変わりました",
    "Start the merge again": "マージをやり直してください",
    "the models have no tensor in common": "モデルに共通するテンソルがありません",
    "Choose models of one architecture": "同じ構造のモデルを選んでください",
    # ---- recipe checkpoints
    "its model {} is missing": "元のモデル {} がありません",
    "its model {} ({} bytes) is missing": "元のモデル {}（{} バイト）がありません",
    "Put it into a folder of models and refresh the list; under another name it is found too": (
        "モデルのフォルダーに置いて一覧を更新してください（名前が違っていても見つかります）"
    ),
    "the recipe {} is not named .safetensors": "レシピ {} の拡張子が .safetensors ではありません",
    "Give it that ending": "その拡張子を付けてください",
    "{} holds a model, which a recipe may not replace": "{} にはモデルがあり、レシピで置き換えることはできません",
    "it is no recipe checkpoint": "レシピだけのファイルではありません",
    "Choose a file that Modelsmith saved as a recipe": "Modelsmith がレシピとして保存したファイルを選んでください",
    "the recipe was made by a later Modelsmith": "より新しい Modelsmith で作られたレシピです",
    "Update Modelsmith": "Modelsmith を更新してください",
    "the recipe in it cannot be read": "中のレシピを読めません",
    "Make the recipe checkpoint anew": "レシピを作り直してください",
    "its model {} is not the file that the recipe was made with: {} has other contents": (
        "元のモデル {} がレシピを作ったときのファイルと違います（{} の内容が異なります）"
    ),
    "Put the original back, or make the recipe anew with the file that is there now": (
        "元のファイルを戻すか、今あるファイルでレシピを作り直してください"
    ),
    "Check the file and its folder": "ファイルとフォルダーを確認してください",
    "Check the folder and its room": "フォルダーと空き容量を確認してください",
    "Check the file": "ファイルを確認してください",
}
