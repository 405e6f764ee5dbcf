"""What the command line says, in Japanese (see ``modelsmith.speech_cli``)."""

from __future__ import annotations

from collections.abc import Mapping

HEADINGS: Mapping[str, str] = {
    "usage: ": "使い方: ",
    "positional arguments:": "引数:",
    "options:": "オプション:",
}
"""argparse's own, at the beginning of a line."""

ARGUMENTS: Mapping[str, str] = {
    "the following arguments are required: {}": "次の引数が必要です: {}",
    "argument {}: {}": "引数 {}: {}",
    "unrecognized arguments: {}": "不明な引数です: {}",
    "ambiguous option: {} could match {}": "オプション {} はあいまいです（候補: {}）",
    "invalid choice: {} (choose from {})": "{} は選べません（選択肢: {}）",
    "invalid {} value: {}": "{1} は {0} の値ではありません",
    "expected one argument": "値が一つ必要です",
    "expected at least one argument": "値が一つ以上必要です",
    "expected {} arguments": "値が {} 個必要です",
    "not allowed with argument {}": "引数 {} と同時には使えません",
}
"""argparse's errors."""

JAPANESE: Mapping[str, str] = {
    # ---- all commands
    "Knows, merges and mends model files.": "モデルファイルを調べ、マージし、修復します。",
    "show this help message and exit": "このヘルプを表示して終わります",
    "show the version and exit": "バージョンを表示して終わります",
    "language of what is said": "表示の言語（既定はシステムの言語）",
    "modelsmith: stopped; nothing half-written was kept": ("modelsmith: 中止しました。書きかけのものは残していません"),
    "replace the output where it exists": "出力ファイルがあれば置き換えます",
    "replace an output that exists": "出力ファイルがあれば置き換えます",
    "show no progress bar": "進み具合を表示しません",
    "do not compute the SHA-256 of the new file": "新しいファイルの SHA-256 を計算しません",
    "print JSON": "JSON で出力します",
    "print one JSON object": "JSON オブジェクトを一つ出力します",
    "print one JSON object a line": "一行に一つの JSON オブジェクトを出力します",
    "{} and {} more": "{}、ほか {} 個",
    "{} and {}": "{} と {}",
    "{} to {}": "{}～{}",
    " or ": " または ",
    "nothing": "なし",
    "none": "なし",
    "unknown": "不明",
    "info": "情報",
    "warning": "警告",
    # ---- identify
    "say what model files are": "モデルファイルの種類を調べます",
    "Say what model files are, from their headers. Exit status 1 when any of them could not be read.": (
        "ヘッダーからモデルファイルの種類を調べます。読めないものがあれば終了ステータスは 1 です。"
    ),
    "model file, *.index.json or diffusers folder": "モデルファイル、*.index.json、diffusers フォルダー",
    "print one JSON object a line for each file, in order": (
        "ファイルごとに一行の JSON を順に出力します（--lang の指定がなければ英語）"
    ),
    "cannot be read: {}": "読めません: {}",
    "kind": "種類",
    "fits": "適合",
    "variant": "派生",
    "type": "型",
    "layout": "配置",
    "input channels": "入力チャンネル",
    "size": "サイズ",
    "EMA": "EMA",
    "prediction": "予測タイプ",
    "part": "部分",
    "asks for": "要求",
    "{} GB, {} tensors, {}": "{} GB、テンソル {} 個、{}",
    "beside the weights": "重みのほかにもあり",
    "instead of the weights": "EMA の重みのみ",
    "complete": "完全",
    "{} of {} missing": "{1} 個中 {0} 個が不足",
    "nothing that is known": "不明",
    "one of {}": "次のいずれか: {}",
    "zero terminal SNR": "ゼロ終端 SNR",
    "zero terminal SNR unknown": "ゼロ終端 SNR は不明",
    "the evidence disagrees": "手がかりが食い違っています",
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "flow": "flow",
    "edm": "edm",
    "edm_v_prediction": "edm_v_prediction",
    "cascade": "cascade",
    "undetermined": "判別できません",
    "checkpoint": "チェックポイント",
    "diffusion model": "拡散モデル",
    "VAE": "VAE",
    "text encoder": "テキストエンコーダー",
    "LoRA": "LoRA",
    "ControlNet": "ControlNet",
    "embedding": "埋め込み（Textual Inversion）",
    "hypernetwork": "ハイパーネットワーク",
    "unsafe": "危険",
    "incomplete": "不完全",
    "unreadable": "読めません",
    "recipe": "レシピ",
    # ---- merge, replay, difference
    "merge checkpoints": "チェックポイントをマージします",
    "Merge model files into a new one.": "モデルファイルをマージして新しいファイルを作ります。",
    "weighted_sum, add_difference, … (default: %(default)s)": (
        "マージ方式: weighted_sum、add_difference など（既定: %(default)s）"
    ),
    "the first model": "一つ目のモデル",
    "the second model": "二つ目のモデル",
    "the third model": "三つ目のモデル",
    "further models": "さらに続くモデル",
    "the main weight; each method has a default": "主な重み（既定値は方式ごとにあります）",
    "any parameter of the method": "方式のパラメーター",
    "alpha by block: numbers in order (26 for SD1 and SD2, 21 for SDXL) and NAME=value, separated by commas": (
        "ブロックごとの alpha: 順に並べた数値（SD1・SD2 は 26 個、SDXL は 21 個）と NAME=値 をコンマで区切ります"
    ),
    "alpha by block from a preset, such as GRAD_V, OUT_FROM_B or one of your own": (
        "ブロックごとの alpha をプリセットから取ります（GRAD_V、OUT_FROM_B、自分のプリセットなど）"
    ),
    "any parameter by block, such as beta=GRAD_A": "ほかのパラメーターのブロックごとの値（例: beta=GRAD_A）",
    "keep --block-weights under this name": "--block-weights をこの名前で保存します",
    "weights of single tensors, such as alpha='OUT03-OUT05:attn2:0.5' or alpha='/attn2.*to_k/:0.5'": (
        "個々のテンソルの重み（例: alpha='OUT03-OUT05:attn2:0.5'、alpha='/attn2.*to_k/:0.5'）"
    ),
    "detail, contrast and colour after the merge: IN, OUT, OUT2, CONT, BRI, COL1-3, or NAME=value": (
        "マージ後の描き込み・コントラスト・色の調整: IN, OUT, OUT2, CONT, BRI, COL1-3 の順の数値か NAME=値"
    ),
    "the new .safetensors file": "新しい .safetensors ファイル",
    "precision of the output (default: as in A); fp8 leaves the VAE as it is": (
        "出力の精度（既定: A と同じ）。fp8 でも VAE はそのままです"
    ),
    "the precision of unet, text_encoder or vae alone, such as vae=fp32": (
        "unet、text_encoder、vae だけの精度（例: vae=fp32）"
    ),
    "a LoRA to bake into the result; may be given several times": "結果に焼き込む LoRA（何度でも指定できます）",
    "tensors that another model lacks": "ほかのモデルにないテンソルの扱い",
    "merge across prediction types, marked as TYPE": "予測タイプの違うモデルをマージし、結果を TYPE とします",
    "write the recipe as JSON too": "レシピを JSON でも書き出します",
    "cpu, cuda, cuda:0 or auto (default: cpu)": "cpu、cuda、cuda:0、auto のいずれか（既定: cpu）",
    "cpu, cuda, cuda:0 or auto (default: as the recipe says, the CPU where no GPU is here)": (
        "cpu、cuda、cuda:0、auto のいずれか（既定: レシピの通り。GPU がなければ CPU）"
    ),
    "{} ({} bytes, {} s)": "{}（{} バイト、{} 秒）",
    "measuring": "測定中",
    "repeat a merge from its recipe": "レシピからマージをやり直します",
    "Repeat a merge from the recipe in a merged file (of Modelsmith, A1111, supermerger or sd-mecha) or in a file of "
    "its own (JSON, .mecha). Inputs are found by their hash, whatever they are called now.": (
        "マージしたファイル（Modelsmith、A1111、supermerger、sd-mecha）や単独のファイル（JSON、.mecha）のレシピから"
        "マージをやり直します。入力は、今の名前に関係なくハッシュで探します。"
    ),
    "a merged file or a recipe file": "マージしたファイルかレシピのファイル",
    "folders that hold the inputs": "入力のあるフォルダー",
    "the new file (default: the recipe's name)": "新しいファイル（既定: レシピにある名前）",
    "make missing inputs that were merges themselves": "それ自体がマージだった入力がなければ作り直します",
    "print the recipe as JSON and stop": "レシピを JSON で表示して終わります",
    "compare two checkpoints block by block": "二つのチェックポイントをブロックごとに比べます",
    "How far B is from A in every block; with C, how large B - C is against A.": (
        "ブロックごとの A と B の違いの大きさ。C があれば、A に対する B - C の大きさです。"
    ),
    "compare B - C with A": "B - C を A と比べます",
    "give the numbers as JSON": "数値を JSON で出力します",
    "block": "ブロック",
    "cosine": "コサイン",
    "largest": "最大",
    "{} tensors not in every model: {}": "すべてのモデルにはないテンソル {} 個: {}",
    "{} tensors of different shapes: {}": "形の違うテンソル {} 個: {}",
    "{} tensors with values that are NaN or infinite, which were left out: {}": (
        "NaN または無限大の値（除外しました）を含むテンソル {} 個: {}"
    ),
    # ---- lora
    "bake, extract, merge and describe LoRAs": "LoRA の焼き込み・抽出・マージ・情報表示をします",
    "write a checkpoint with LoRAs in it": "LoRA を焼き込んだチェックポイントを書き出します",
    "make a LoRA of what two checkpoints differ in": "二つのチェックポイントの差から LoRA を作ります",
    "make one LoRA of several, or change the rank of one": "複数の LoRA を一つにするか、一つのランクを変えます",
    "say what a LoRA holds and how it fits a checkpoint": "LoRA の内容と、チェックポイントに合うかどうかを調べます",
    "LoRA file, with its strength (1) and block weights (1) if wanted: FILE, FILE:0.8, FILE:0.8:GRAD_V or "
    "FILE:1:BASE=0.5,IN04=0": (
        "LoRA ファイル。強さ（1）とブロックごとの重み（1）も指定できます: "
        "FILE、FILE:0.8、FILE:0.8:GRAD_V、FILE:1:BASE=0.5,IN04=0"
    ),
    "file to write": "書き出すファイル",
    "the checkpoint": "チェックポイント",
    "precision of the output (as the checkpoint)": "出力の精度（既定: チェックポイントと同じ）",
    "stop where any module of a LoRA matches nothing": "LoRA のモジュールに合うものがなければ中止します",
    "let the shapes alone decide what fits": "合うかどうかを形だけで判断します",
    "print the result as one JSON object": "結果を JSON オブジェクト一つで出力します",
    "the model to start from": "元のモデル",
    "the model to come to": "学習後のモデル",
    "rank of larger kernels (as --rank; 0 leaves out)": ("大きな畳み込みのランク（既定は --rank と同じ、0 で除外）"),
    "clamp factors beyond this quantile (kohya: 0.99)": "この分位を超える値を抑えます（kohya は 0.99）",
    "how factors are found": "因子の求め方",
    "one part instead of all": "全体ではなく一つの部分だけ",
    "keep biases and norms too, as full differences": "バイアスと正規化も完全な差分として残します",
    "leave out tensors that change less": "変化がこれより小さいテンソルを除きます",
    "FILE or FILE:STRENGTH": "FILE または FILE:強さ",
    "rank (the most, with --energy)": "ランク（--energy があれば上限）",
    "keep this share (0 to 1) of the sum of squares": "二乗和のうち残す割合（0～1）",
    "of the random basis": "乱数の基底のシード",
    "where singular values are found: cpu, cuda, cuda:0 or auto (default: cpu)": (
        "特異値を求める場所: cpu、cuda、cuda:0、auto（既定: cpu）"
    ),
    "precision of the LoRA": "LoRA の精度",
    "LoRA files": "LoRA ファイル",
    "say what of it matches this model": "このモデルに合うものを調べます",
    "{}: {} tensors changed, {} bytes in {} s": "{}: テンソル {} 個を変更、{} バイト、{} 秒",
    "{}: {} modules matched, {} not": "{}: モジュール {} 個が一致、{} 個は不一致",
    "  not applied: {} ({})": "  適用されず: {}（{}）",
    "{}: {} modules, rank {}, {} % of the difference's energy, {} bytes in {} s": (
        "{}: モジュール {} 個、ランク {}、差のエネルギーの {} %、{} バイト、{} 秒"
    ),
    "{}: {} modules, rank {}, {}, {} bytes in {} s": "{}: モジュール {} 個、ランク {}、{}、{} バイト、{} 秒",
    "exact": "正確",
    "{} % of the energy": "エネルギーの {} %",
    "  {} tensors differ, but are not in the LoRA: {}": "  違いがあるのに LoRA に入っていないテンソル {} 個: {}",
    "  {} tensors are in one checkpoint only: {}": "  一方のチェックポイントにしかないテンソル {} 個: {}",
    "  {} tensors were no kind of LoRA tensor that is known and are left out: {}": (
        "  既知の LoRA の形式でないため除いたテンソル {} 個: {}"
    ),
    "  {} tensors of no kind that is known here: {}": "  未知の形式のテンソル {} 個: {}",
    "  fits      {}": "  適合        {}",
    "cannot be told": "不明",
    "  modules   {}": "  モジュール  {}",
    "  parts     {} in the diffusion model, {} in text encoders": (
        "  部分        拡散モデルに {} 個、テキストエンコーダーに {} 個"
    ),
    "  ranks     {}": "  ランク      {}",
    "  matches   {} modules; {}": "  一致        モジュール {} 個、{}",
    "{} not: {}": "{} 個は不一致: {}",
    "nothing is left over": "余りなし",
    # ---- vae
    "check a VAE, make it run in fp16, bake it in, take it out": ("VAE の点検・fp16 対応・組み込み・取り出しをします"),
    "say what a VAE is and whether it runs in fp16": "VAE の種類と、fp16 で動くかどうかを調べます",
    "write a VAE that runs in fp16 with the same output": "同じ出力のまま fp16 で動く VAE を書き出します",
    "put a VAE into a checkpoint": "チェックポイントに VAE を入れます",
    "take the VAE out of a checkpoint, or respell a VAE": (
        "チェックポイントから VAE を取り出すか、VAE の名前の形式を変えます"
    ),
    "a VAE, or a checkpoint with one in it": "VAE か、VAE 入りのチェックポイント",
    "the checkpoint to put it into": "VAE を入れるチェックポイント",
    "run it and report each layer's largest activation": "実行して、各層の最大の値を表示します",
    "factor to leave below 65,504 (default: 4)": "65,504 までに残す余裕の倍率（既定: 4）",
    "what to cure": "対象",
    "also report the original's error in bf16": "元の VAE の bf16 での誤差も表示します",
    "write the VAE so (default: as it is)": "VAE をこの精度で書きます（既定: そのまま）",
    "write it so (default: as it is)": "この精度で書きます（既定: そのまま）",
    "bake a VAE of another family too": "系統の違う VAE でも入れます",
    "spelling (default: ldm)": "名前の形式（既定: ldm）",
    "what the VAE belongs to, where you know it": "VAE の系統（わかっている場合）",
    "replace OUT where it exists": "OUT があれば置き換えます",
    "how many Gaussian latents to decode (default: 3)": "試すガウス乱数の潜在画像の数（既定: 3）",
    "their side in latent pixels (default: 32)": "その一辺の潜在ピクセル数（既定: 32）",
    "seed of the latents (default: 0)": "潜在画像のシード（既定: 0）",
    "pictures to run as well, or folders": "いっしょに試す画像、またはフォルダー",
    "under {}": "{} の下",
    "a file of its own": "単独のファイル",
    "  VAE       {} ({}), {} latent channels": "  VAE       {}（{}）、潜在チャンネル {}",
    "  stored    {}, {} naming, {}": "  保存形式  {}、{} 形式の名前、{}",
    "  fp16      {}: {}. {}": "  fp16      {}: {}。{}",
    "  evidence  {}: {} ({}, says {})": "  手がかり  {}: {}（{}、{}）",
    "safe": "問題なし",
    "at risk": "要注意",
    "layer": "層",
    "of 65,504": "65,504 比",
    "  overflows": "  あふれます",
    "It overflows in fp16": "fp16 ではあふれます",
    "It stays within fp16": "fp16 に収まります",
    "  {} on {} inputs; largest {} ({}).": "  {1} 個の入力で試した結果: {0}。最大 {2}（{3}）",
    "before": "前",
    "after": "後",
    "{}: {} tensors scaled by powers of two, headroom {}": "{}: テンソル {} 個を 2 のべき乗で調整、余裕 {}",
    "  largest activation {} -> {} (fp16 ends at 65,504)": "  層の値の最大 {} -> {}（fp16 の上限は 65,504）",
    "  fp32 output differs from the original's by {} of its size": "  fp32 の出力と元の出力の差は大きさの {}",
    "  fp16 output is finite on all {} inputs ({}); {}": "  fp16 の出力は {} 個の入力すべてで有限（{}）、{}",
    "calculated in fp16": "fp16 で計算",
    "every stored value rounded to fp16": "保存される値をすべて fp16 に丸めて計算",
    "; calculated in fp16 itself on a small part, largest error {}": "。一部は fp16 そのもので計算、最大誤差 {}",
    "mean error {}": "平均誤差 {}",
    ", the original's in bf16 {}": "、元の VAE の bf16 では {}",
    "  sha256 {}, {} s": "  sha256 {}、{} 秒",
    "  {} values lost bits below fp16's smallest normal number": (
        "  {} 個の値で、fp16 の最小の正規化数より小さい桁が失われました"
    ),
    "{}: {} tensors of {} baked in{}": "{0}: {2} の VAE のテンソル {1} 個を入れました{3}",
    "; whether it fits cannot be told from the files": "（合うかどうかはファイルからはわかりません）",
    "{}: {} tensors of {} in {} naming": "{0}: {2} の VAE のテンソル {1} 個（{3} 形式の名前）",
    "{} …": "{}…",
    "writing": "書き込み",
    "copying": "コピー",
    "baking": "VAE の組み込み",
    "extracting": "VAE の取り出し",
    "proving in fp32": "fp32 での確認",
    "proving in fp16": "fp16 での確認",
    "proving in fp16 itself": "fp16 そのものでの確認",
    # ---- convert, repair, publish, compare, verify: help
    "change format, precision, parts or names": "形式・精度・部分・名前を変えます",
    "Write a model anew as .safetensors: from .ckpt (nothing in it is executed), GGUF or a diffusers folder, in "
    "another precision, pruned, with parts taken out or put in. A folder of models is done file by file and goes on "
    "where it stopped.": (
        "モデルを .safetensors として書き直します。.ckpt（中のコードは実行しません）、GGUF、diffusers フォルダーから"
        "変換し、精度の変更、不要部分の除去、部分の取り出しと組み込みができます。モデルのフォルダーはファイルごとに処理し、"
        "中断したところから続けられます。"
    ),
    "say what would be done and write nothing": "何も書かずに、行うことを表示します",
    "a model, a diffusers folder, or a folder of models": "モデル、diffusers フォルダー、モデルのフォルダーのいずれか",
    "new file, or a folder for many": "新しいファイル（フォルダーの場合は出力フォルダー）",
    "fp32, fp16, bf16, fp8_e4m3, fp8_e5m2 or fp8_scaled, for all or as unet=fp8_e4m3,te=fp16,vae=fp32 (default: as it "
    "is; packed GGUF becomes fp16)": (
        "fp32、fp16、bf16、fp8_e4m3、fp8_e5m2、fp8_scaled。全体に、または unet=fp8_e4m3,te=fp16,vae=fp32 のように"
        "指定します（既定: そのまま。GGUF の量子化は fp16 になります）"
    ),
    "in fp16, 65504 instead of infinity for what lies beyond": "fp16 の上限を超える値を無限大ではなく 65504 にします",
    "drop averages, schedule buffers and training leftovers": (
        "EMA、スケジュールのバッファー、学習の残り物を取り除きます"
    ),
    "with --prune: what becomes of EMA weights": "--prune のとき: EMA の重みの扱い",
    "with --prune: keep the schedule buffers": "--prune のとき: スケジュールのバッファーを残します",
    "the spelling of names (SD1, SD2, SDXL)": "名前の形式（SD1、SD2、SDXL）",
    "take one part out: unet, te, vae, clip_l, clip_g, clip_h": (
        "一つの部分だけを取り出します: unet、te、vae、clip_l、clip_g、clip_h"
    ),
    "leave unet, te or vae out": "unet、te、vae を除きます",
    "put a part of another file in": "ほかのファイルの部分を入れます",
    "find and mend what is wrong with a model": "モデルの異常を見つけて直します",
    "Find damaged position_ids, missing or stray markers, contradicting metadata, early key names, doubled or missing "
    "parts. With --output the mended model is written.": (
        "壊れた position_ids、足りない・余分なマーカー、矛盾するメタデータ、古いキー名、重複や不足している部分を"
        "探します。"
        "--output を付けると、直したモデルを書き出します。"
    ),
    "a model, or a folder of models": "モデル、またはモデルのフォルダー",
    "what you know: markers and metadata follow it": "わかっている予測タイプ（マーカーとメタデータを合わせます）",
    "take missing parts from this file": "足りない部分をこのファイルから取ります",
    "make a model ready for others": "モデルを公開用に整えます",
    "Write a model in fp16, pruned, under an ASCII name, with clean metadata, hashes and a model card in English and "
    "Japanese. A folder of models is done file by file and goes on where it stopped.": (
        "fp16 にして不要部分を除き、ASCII の名前、整ったメタデータ、ハッシュ、英語と日本語のモデルカードを付けて"
        "書き出します。"
        "モデルのフォルダーはファイルごとに処理し、中断したところから続けられます。"
    ),
    "folder for all that is made": "出力先のフォルダー",
    "file name without ending (default: made from the title)": "拡張子なしのファイル名（既定: タイトルから作ります）",
    "title": "タイトル",
    "author": "作者",
    "licence, as CC0-1.0": "ライセンス（例: CC0-1.0）",
    "as 1024x1024 (default: the family's)": "解像度（例: 1024x1024。既定: 系統の解像度）",
    "JPEG, PNG or WebP; one of more than 256 KiB is made smaller": "JPEG、PNG、WebP（256 KiB を超えるものは縮めます）",
    "as for convert (default: %(default)s)": "convert と同じ（既定: %(default)s）",
    "drop training metadata (data sets, paths)": "学習のメタデータ（データセット、パスなど）を取り除きます",
    "mend nothing on the way": "修復をしません",
    "compare two models tensor by tensor": "二つのモデルをテンソルごとに比べます",
    "Exit status 0 where they are equal, if need be after rounding to the narrower type; 1 otherwise.": (
        "等しいか、狭い方の型に丸めて等しければ終了ステータスは 0、それ以外は 1 です。"
    ),
    "list equal tensors too, also those equal after rounding": "等しいテンソル（丸めて等しいものも）も表示します",
    "check models for damage": "モデルの破損を調べます",
    "Check header, sizes and values (NaN), and hashes against a list. Exit status 1 where one is bad.": (
        "ヘッダー、サイズ、値（NaN）と、一覧のハッシュを調べます。異常があれば終了ステータスは 1 です。"
    ),
    "models, or folders of models": "モデル、またはモデルのフォルダー",
    "a text with HASH  NAME on each line": "各行が「ハッシュ  名前」のテキスト",
    "do not read the values": "値を読みません",
    # ---- convert, repair, publish, compare, verify: results
    "{} done, {} skipped, {} failed": "完了 {}、省略 {}、失敗 {}",
    "failed: {}": "失敗: {}",
    "{}: done before": "{}: 処理済み",
    "would fail: {}": "失敗の見込み: {}",
    "{} to do, bytes {} -> {}; {} done before, {} would fail": (
        "対象 {}、{} -> {} バイト、処理済み {}、失敗の見込み {}"
    ),
    "{}: nothing to repair": "{}: 直すところはありません",
    "    evidence: {}": "    手がかり: {}",
    "    left to you": "    お任せします",
    "    done: {}": "    実施: {}",
    "    would be: {}": "    予定: {}",
    "nothing was written: nothing of this can be mended without you": (
        "何も書き出していません。自動で直せるものがありません"
    ),
    "  tensors {} -> {}, bytes {} -> {}": "  テンソル {} -> {} 個、{} -> {} バイト",
    "  quantised: {}": "  量子化: {}",
    "  left out: {}": "  取り除くもの: {}",
    "{} averages (EMA)": "EMA {} 個",
    "{} schedule buffers": "スケジュールのバッファー {} 個",
    "{} training leftovers": "学習の残り物 {} 個",
    "  note: {}": "  注: {}",
    "{}: {} -> {} bytes in {} s": "{}: {} -> {} バイト、{} 秒",
    "  largest rounding error {} in {}": "  最大の丸め誤差 {}（{}）",
    "  {} values became zero": "  {} 個の値が 0 になりました",
    "  warning: {}: {}": "  警告: {}: {}",
    "{} out of range": "範囲外 {} 個",
    "{} NaN": "NaN {} 個",
    "{} infinite before": "元から無限大 {} 個",
    "  {} values of {} tensors were out of range and took the largest value there is": (
        "  テンソル {1} 個の {0} 個の値が範囲外のため、最大の値にしました"
    ),
    "  {} values of {} tensors were out of range: infinite in fp16 and bf16, the largest value in fp8 (--clip gives "
    "fp16 its largest value)": (
        "  テンソル {1} 個の {0} 個の値が範囲外です。fp16 と bf16 では無限大、fp8 では最大の値になります"
        "（--clip で fp16 も最大の値にできます）"
    ),
    "  {}; bytes {} -> {}": "  {}、{} -> {} バイト",
    "  repair: {}": "  修復: {}",
    "  left to you: {}": "  お任せします: {}",
    "  removed: {}": "  取り除くメタデータ: {}",
    "  exists already: {}": "  既に存在します: {}",
    "  card {}": "  モデルカード {}",
    "  cards and hash: {}": "  モデルカードとハッシュ: {}",
    "equal": "等しい",
    "equal after rounding": "丸めれば等しい",
    "different": "異なる",
    "of another shape": "形が違う",
    "in the first only": "一つ目だけにある",
    "in the second only": "二つ目だけにある",
    "largest difference {}": "最大の差 {}",
    "{} % of the values": "値の {} %",
    "{}: sound": "{}: 異常なし",
    "{}: sound, but not in the list": "{}: 異常なし（一覧にはありません）",
    "{}: in the list, but not there": "{}: 一覧にありますが、ファイルがありません",
    "{} checked, {} bad": "検査 {}、異常 {}",
}
"""Results, and the help of every command."""
