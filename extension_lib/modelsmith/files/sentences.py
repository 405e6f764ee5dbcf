"""What the readers and writers of files say, in Japanese: every problem and every remedy, by its English text.

``{}`` stands for what is filled in: a name, a number, or the reason that a lower layer gives (``modelsmith.japanese``).
"""

from __future__ import annotations

from collections.abc import Mapping

JAPANESE: Mapping[str, str] = {
    # ---- any file
    "the file is empty": "ファイルが空です",
    "the file does not exist": "ファイルが存在しません",
    "the file may not be read": "ファイルを読む権限がありません",
    "reading failed ({})": "読み込みに失敗しました（{}）",
    "the name has a null character in it": "名前にヌル文字が含まれています",
    "it is neither safetensors, a PyTorch file nor GGUF": "safetensors でも PyTorch のファイルでも GGUF でもありません",
    "it is a tar archive": "tar アーカイブです",
    "it is a git-lfs pointer, not the model": "モデルではなく git-lfs のポインターです",
    "it is a web page, not a model": "モデルではなくウェブページです",
    "Download or copy it again": "もう一度ダウンロードまたはコピーしてください",
    "Download or copy the file again": "もう一度ダウンロードまたはコピーしてください",
    "Check the name and the folder": "名前とフォルダーを確認してください",
    "Give your user the right to read it": "ユーザーに読み取り権限を与えてください",
    "Check the disk": "ディスクを確認してください",
    "Check the disk, then copy or download the file again": (
        "ディスクを確認してから、もう一度コピーまたはダウンロードしてください"
    ),
    "Rename the file": "ファイル名を変えてください",
    "Use another file": "別のファイルを使ってください",
    "Choose another file": "別のファイルを選んでください",
    "Choose a .safetensors, .ckpt, .pt or .gguf model, or download it again": (
        ".safetensors、.ckpt、.pt、.gguf のモデルを選ぶか、もう一度ダウンロードしてください"
    ),
    "Unpack it and use the model file inside": "展開して、中のモデルファイルを使ってください",
    "Unpack it and use the file inside": "展開して、中のファイルを使ってください",
    "Unpack it and save it again": "展開して、保存し直してください",
    "Fetch the real file (git lfs pull)": "本物のファイルを取得してください（git lfs pull）",
    "The download went wrong: download the file again": (
        "ダウンロードに失敗しています。もう一度ダウンロードしてください"
    ),
    "The file is damaged: download or copy it again": (
        "ファイルが壊れています。もう一度ダウンロードまたはコピーしてください"
    ),
    "The download or copy did not finish: do it again": (
        "ダウンロードまたはコピーが途中で終わっています。やり直してください"
    ),
    "Nothing was executed. Get the model as .safetensors from a source that you trust.": (
        "何も実行していません。信頼できる配布元から .safetensors 形式で入手してください"
    ),
    "the pickle asks for {}": "この pickle は {} を要求しています",
    "it is a recipe checkpoint, which holds no weights": "レシピだけのファイルで、重みを含みません",
    "Save it as a file first: Save as file in the History view, or modelsmith replay": (
        "先に「履歴」の「ファイルとして保存」か modelsmith replay で、通常のファイルとして保存してください"
    ),
    # ---- safetensors
    "the file has only {} bytes": "ファイルが {} バイトしかありません",
    "the header claims {} bytes, more than the format allows": "ヘッダーが {} バイトもあり、形式の上限を超えています",
    "the header claims {} bytes but the file has only {}": "ヘッダーは {} バイトのはずが、ファイルは {} バイトです",
    "the header is empty": "ヘッダーが空です",
    "the header is not a list of tensors": "ヘッダーがテンソルの一覧になっていません",
    "the header names {} twice": "ヘッダーに {} が二度あります",
    "the header is not valid JSON ({})": "ヘッダーが正しい JSON ではありません（{}）",
    "the header is not valid JSON (cut short)": "ヘッダーが途中で切れています",
    "the header is not a JSON object": "ヘッダーが JSON オブジェクトではありません",
    "__metadata__ is not a JSON object": "__metadata__ が JSON オブジェクトではありません",
    "the metadata value {} is not text": "メタデータの {} が文字列ではありません",
    "tensor {} has no {}": "テンソル {} に {} がありません",
    "tensor {} is malformed ({})": "テンソル {} の記述が正しくありません（{}）",
    "tensor {} ({} {}) does not fit its place of {} bytes": "テンソル {}（{} {}）が {} バイトの領域に合いません",
    "tensor {} overlaps the one before it": "テンソル {} が前のテンソルと重なっています",
    "tensor {} leaves a gap before it": "テンソル {} の前に隙間があります",
    "the file is cut short: its header promises {} bytes and it has {}": (
        "ファイルが途中で切れています（本来 {} バイトのところ {} バイト）"
    ),
    "{} bytes follow the last tensor that no tensor owns": "最後のテンソルの後に余分な {} バイトがあります",
    # ---- pickles and zip archives
    "its pickle cannot be read: {}": "pickle を読めません: {}",
    "it is a zip archive without a PyTorch model": "PyTorch のモデルを含まない zip アーカイブです",
    "it was written on a big-endian machine": "ビッグエンディアンのマシンで書かれています",
    "Save it again on an ordinary one": "普通のマシンで保存し直してください",
    "the file is cut short within its tensors": "ファイルがテンソルの途中で切れています",
    "its zip directory makes no sense": "zip の目次が不正です",
    "its zip directory is missing": "zip の目次がありません",
    "an entry of its zip directory lies beyond the end": "zip の目次の項目がファイルの終わりを超えています",
    "an entry of its zip directory points nowhere": "zip の目次の項目の指す先がありません",
    "an entry of its zip directory has two sizes": "zip の目次の項目に大きさが二つあります",
    "its pickle is larger than that of any model": "pickle がどのモデルよりも大きすぎます",
    "it is packed by the unknown method {}": "未知の方式 {} で圧縮されています",
    "its zip directory is damaged ({})": "zip の目次が壊れています（{}）",
    "its pickle cannot be unpacked ({})": "pickle を展開できません（{}）",
    # ---- GGUF, sharded models
    "tensor {} has the unknown GGUF type {}": "テンソル {} の GGUF 型 {} は未知です",
    "it is a GGUF of the unknown version {}": "未知のバージョン {} の GGUF です",
    "it is a GGUF of version 1 or of a big-endian machine": "バージョン 1 またはビッグエンディアンの GGUF です",
    "its GGUF header is cut short or too long": "GGUF のヘッダーが途中で切れているか長すぎます",
    "its GGUF header has the unknown value type {}": "GGUF のヘッダーに未知の値の型 {} があります",
    "its GGUF header has arrays longer than any model needs": "GGUF のヘッダーの配列が長すぎます",
    "its GGUF header nests arrays": "GGUF のヘッダーの配列が入れ子になっています",
    "its GGUF header claims more entries than any model has": "GGUF のヘッダーの項目が多すぎます",
    "tensor {} has {} dimensions": "テンソル {} の次元が {} あります",
    "its GGUF alignment makes no sense": "GGUF の整列の値が不正です",
    "its header names {} twice": "ヘッダーに {} が二度あります",
    "tensor {} has the impossible shape {}": "テンソル {} の形状 {} はあり得ません",
    "the file is cut short: tensor {} lies beyond its end": "ファイルが途中で切れています（{} がありません）",
    "The file is damaged or cut short: download or copy it again": (
        "ファイルが壊れているか途中で切れています。もう一度ダウンロードまたはコピーしてください"
    ),
    "the folder holds {} models and is none itself": "フォルダーにはモデルが {} 個あり、一つのモデルではありません",
    "Choose one of its models": "その中の一つを選んでください",
    "the folder holds no model": "フォルダーにモデルがありません",
    "Choose a model file or a diffusers folder": "モデルファイルか diffusers のフォルダーを選んでください",
    "it is larger than any index": "インデックスとしては大きすぎます",
    "it is not a JSON object": "JSON オブジェクトではありません",
    "it has no weight_map": "weight_map がありません",
    "it names more shards than any model has": "分割ファイルの数が多すぎます",
    "it is not valid JSON ({})": "正しい JSON ではありません（{}）",
    "it names the shard {}, which is no file of its folder": "分割ファイル {} がフォルダーにありません",
    "tensor {} is not in its shard {}": "テンソル {} が分割ファイル {} にありません",
    "Download or copy the whole folder again": "フォルダー全体をもう一度ダウンロードまたはコピーしてください",
    "Convert it again with a current tool": "新しいツールで変換し直してください",
    # ---- single tensors
    "tensor {} {}": "テンソル {}: {}",
    "it has no tensor {}": "テンソル {} がありません",
    "tensor {} has no plain numbers": "テンソル {} は普通の数値ではありません",
    "tensor {} is not stored in one piece": "テンソル {} が一続きに保存されていません",
    "tensor {} is cut short": "テンソル {} が途中で切れています",
    "Save the file as .safetensors": ".safetensors として保存してください",
    # ---- reasons that are filled in
    "its dtype or shape is no such thing": "dtype または形状が不正です",
    "its shape has too many sides": "形状の次元が多すぎます",
    "its shape is impossible": "あり得ない形状です",
    "its shape has an impossible side": "形状にあり得ない値があります",
    "its place makes no sense": "位置が不正です",
    "a number is too long": "数値が長すぎます",
    "a key without a value": "値のないキーがあります",
    "it ends too early": "途中で終わっています",
    "a line in it does not end": "終わらない行があります",
    "a mark stands where a value should": "値の場所にマークがあります",
    "a mark is missing": "マークがありません",
    "a global without a name": "名前のないグローバルがあります",
    "a number in it is longer than any model needs": "数値が長すぎます",
    "a string in it is not quoted": "引用符のない文字列があります",
    "it sets an item of something that is no dict": "辞書でないものに項目を設定しています",
    "it has an unknown opcode or reference {}": "未知の命令または参照 {} があります",
    "it is malformed ({})": "記述が正しくありません（{}）",
    "it appends to something that is no list": "リストでないものに追加しています",
    "it has more steps than any model file needs": "手順が多すぎます",
    "it changed while it was being read": "読んでいる間にファイルが変わりました",
    "Nothing was written. Let the other program finish": (
        "何も書き出していません。ほかのプログラムが終わるのを待ってください"
    ),
    "tensor {} is compressed inside the file": "テンソル {} がファイルの中で圧縮されています",
    "Convert it to .safetensors first": "先に .safetensors に変換してください",
    "it cannot be read any more ({})": "読めなくなりました（{}）",
    "Put it back": "元に戻してください",
    "it cannot be opened ({})": "開けません（{}）",
    "Check its permissions": "アクセス権を確認してください",
    "it ends at byte {}, before the tensors that its header lists": (
        "ヘッダーにあるテンソルより前の {} バイト目で終わっています"
    ),
    # ---- names and outputs
    "torch {} does not know the type {}": "torch {} は型 {} を扱えません",
    "Update torch, or use a file of another type": "torch を更新するか、別の型のファイルを使ってください",
    "the output name {} has a path in it": "出力名 {} にパスが含まれています",
    "Give a name only; the folder is fixed": "名前だけを指定してください（フォルダーは決まっています）",
    "the output name is empty": "出力名が空です",
    "Give the new file a name": "新しいファイルの名前を指定してください",
    "the output name {} holds {}": "出力名 {} に {} が含まれています",
    "Choose another name": "別の名前にしてください",
    "the output name {} starts or ends with a blank or a dot": "出力名 {} の先頭か末尾が空白またはピリオドです",
    "the output name {} is a device name on Windows": "出力名 {} は Windows のデバイス名です",
    "the output name is too long": "出力名が長すぎます",
    "Use at most {} bytes": "{} バイト以内にしてください",
    "{} has {} bytes free, the output needs {}": "{} の空きは {} バイトですが、出力には {} バイト必要です",
    "Free at least {} bytes there or choose another folder": (
        "そこに {} バイト以上の空きを作るか、別のフォルダーを選んでください"
    ),
    "writing {} failed ({})": "{} の書き込みに失敗しました（{}）",
    "Nothing was kept. Check the disk": "何も残していません。ディスクを確認してください",
    "the output folder {} cannot be used ({})": "出力フォルダー {} を使えません（{}）",
    "Create it first": "先に作成してください",
    "{} exists already": "{} は既に存在します",
    "Choose another name or allow it to be replaced": "別の名前にするか、上書きを許可してください",
    "{} is a folder": "{} はフォルダーです",
    "{} filled up while {} bytes were being written": "{1} バイトを書き込む途中で {0} が満杯になりました",
    "Nothing was kept. Free some space there or choose another folder": (
        "何も残していません。空きを作るか、別のフォルダーを選んでください"
    ),
    "{} allows no file of {} bytes": "{} には {} バイトのファイルを置けません",
    "Choose a folder on another file system (FAT32 ends at 4 GiB) or raise the limit": (
        "別のファイルシステムのフォルダーを選ぶか（FAT32 の上限は 4 GiB）、制限を緩めてください"
    ),
    "{} may not be written ({})": "{} に書き込む権限がありません（{}）",
    "Choose another folder": "別のフォルダーを選んでください",
    "{} is being written already": "{} は既に書き込み中です",
    "Wait until that job is done": "その処理が終わるまで待ってください",
    "{} appeared meanwhile": "{} がその間に作られていました",
    "the output has two tensors named {}": "出力に {} という名前のテンソルが二つあります",
    "chunks of {} bytes are not whole pages of {}": "{} バイトのまとまりが {} のページの整数倍ではありません",
    "the writer expected {} and was given {}": "書き込み側は {} を待っていましたが、{} が渡されました",
    "more bytes were written than the header announced": "ヘッダーの示す大きさより多く書き込まれました",
    "the header may not grow, nor its content once it was hashed": (
        "ヘッダーは大きくできず、ハッシュ計算の後は内容も変えられません"
    ),
    # ---- identification
    "it cannot be read ({})": "読めません（{}）",
    "Check the name": "名前を確認してください",
    "Mend it": "直してください",
    "its {} is not a table of names by hash": "その {} はハッシュから名前への表ではありません",
    "the config has no model.params": "設定に model.params がありません",
    "Give a config that ldm or sgm can build from.": "ldm または sgm がモデルを作れる設定を指定してください",
    "the config has no denoiser {}": "設定に denoiser {} がありません",
    "Give an sgm config of a discrete denoiser.": "discrete denoiser の sgm の設定を指定してください",
    "cancelled; nothing was written": "中止しました。何も書き出していません",
    "cancelled": "中止しました",
}
