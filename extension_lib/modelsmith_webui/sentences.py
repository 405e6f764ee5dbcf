"""What the tab, the API and the hosts' adapters say in errors, in Japanese (see ``modelsmith.japanese``)."""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    # ---- what is chosen
    "model {} is not chosen": "モデル {} が選ばれていません",
    "Choose a checkpoint.": "チェックポイントを選んでください",
    "no VAE is chosen": "VAE が選ばれていません",
    "Choose a VAE, or a checkpoint with one in it": "VAE か、VAE を含むチェックポイントを選んでください",
    "the checkpoint to put the VAE into is not chosen": "VAE を入れるチェックポイントが選ばれていません",
    "another file has its name now": "今は別のファイルがこの名前になっています",
    "it is not in the host's folders": "WebUI のフォルダーにありません",
    "Put the model of the recipe back, or choose another in its place": (
        "レシピのモデルを元に戻すか、代わりのモデルを選んでください"
    ),
    # ---- rows of LoRAs
    "the list of LoRAs cannot be read": "LoRA の一覧を読めません",
    "Remove its rows and add them again": "行を削除して追加し直してください",
    "the strength of {} is {}": "{} の強さが {} になっています",
    "Give a number, usually between -2 and 2": "数値を指定してください（普通は -2 から 2）",
    "{} is not there: the host has no LoRA files": "{} がありません。LoRA のファイルが一つもありません",
    "Put it into a folder of the host": "WebUI の LoRA のフォルダーに置いてください",
    # ---- dropped files
    "the page sent something that is no header": "ページから送られたものがヘッダーではありません",
    "Load the page anew.": "ページを再読み込みしてください",
    "{} is no .safetensors file": "{} は .safetensors のファイルではありません",
    "Put the file into the models folder and choose it in the list.": (
        "モデルのフォルダーに置いて、一覧から選んでください"
    ),
    # ---- places and settings beside a file
    "Choose another name, or allow it to be replaced": "別の名前にするか、上書きを許可してください",
    "the folder {} cannot be made ({})": "フォルダー {} を作成できません（{}）",
    "Make it by hand": "手動で作成してください",
    "the files lie on different drives": "ファイルが別々のドライブにあります",
    "Choose files of one drive at a time": "一つのドライブのファイルだけを選んでください",
    "the metadata cannot be read ({})": "メタデータを読めません（{}）",
    "the metadata is not a JSON object": "メタデータが JSON のオブジェクトではありません",
    "Mend or remove this file.": "このファイルを直すか削除してください",
    "cannot be written ({})": "書き込めません（{}）",
    "Check the folder's permissions.": "フォルダーの権限を確認してください",
    "cannot be read as a config ({})": "設定ファイルとして読めません（{}）",
    "is not a config": "設定ファイルではありません",
    # ---- the queue
    "{} jobs are waiting already": "既に {} 件のジョブが待っています",
    "Wait until one has ended": "一つ終わるまで待ってください",
    "the job {} does not wait any more": "ジョブ {} はもう待っていません",
    "Only waiting jobs can be moved": "順番を変えられるのは待っているジョブだけです",
    "{} is in the queue already": "{} は既にキューにあります",
    # ---- the probe and the choice of a VAE
    "no model is in memory": "読み込まれているモデルがありません",
    "Choose a checkpoint and make a picture first.": "チェックポイントを選び、先に画像を一枚生成してください",
    "{} is not asked: {}": "{} は調べません: {}",
    "The probe is for SD1, SD2 and SDXL models on a discrete schedule.": (
        "調べられるのは、離散スケジュールの SD1・SD2・SDXL のモデルです"
    ),
    "there is no model for which it could be allowed": "許可する対象のモデルがありません",
    "Choose a checkpoint first": "先にチェックポイントを選んでください",
    # ---- X/Y/Z
    "{} is no recipe checkpoint": "{} はレシピだけのファイルではありません",
    "Choose one that was saved as a recipe": "レシピとして保存したものを選んでください",
    "{} takes no block weights": "{} には層別の重みを指定できません",
    "Choose another method": "別の方式を選んでください",
    "{} is no strength": "{} は強さではありません",
    "Give a number, or NAME=number": "数値か、名前=数値 で指定してください",
    "the merge has no LoRA {}": "このマージに LoRA {} はありません",
    "the merge has no LoRA": "このマージに LoRA はありません",
    "Add it to the recipe first": "先にレシピに加えてください",
    # ---- the API
    "one recipe is needed": "レシピが一つ必要です",
    "Give either name, history or recipe": "name・history・recipe のどれか一つを指定してください",
    "{} pictures were sent": "画像が {} 枚送られました",
    "Send at most {}": "{} 枚までにしてください",
    "picture {} is larger than {} MiB": "{} 枚目の画像が {} MiB を超えています",
    "Send a smaller one": "もっと小さい画像を送ってください",
    "picture {} is no base64 ({})": "{} 枚目の画像が base64 ではありません（{}）",
    "Send PNG, JPEG or WebP in base64": "PNG・JPEG・WebP を base64 で送ってください",
    # ---- the standalone app
    "no port from {} on is free at {}": "{1} の {0} 以降に空いているポートがありません",
    "Give another one with --port.": "--port で別のポートを指定してください",
    "{} can be reached from other machines": "{} はほかの機器から接続できるアドレスです",
    "Set a password in the environment variable {}, or leave --host away.": (
        "環境変数 {} にパスワードを設定するか、--host を外してください"
    ),
}
