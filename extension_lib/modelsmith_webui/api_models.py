"""What the API's jobs take: the fields, their meaning and their limits, as the OpenAPI description shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

NAME = "A model file by the name, title or file name that the host's own list has; never a path."
OUTPUT = "Name of the new file, without a folder; made from the model's where it is left out."
FAMILY = Literal["sd", "sdxl", "x4-upscaler", "sd3", "flux1", "flux2"]
DEVICE = (
    "Where it is computed: cpu, cuda, cuda:0 or auto (a GPU, where there is one, for methods that work on whole"
    " tensors). A GPU may round the last bits otherwise than the CPU."
)
RECIPES_DEVICE = "As for a merge; where a recipe is given and this is left out, as the recipe says."
HALF = Literal["fp32", "bf16", "fp16"]


class _Body(BaseModel, extra="forbid"):
    """A field that is not known is refused, so that a misspelt one does not pass unnoticed."""


class _Writes(_Body):
    name: str = Field(description=NAME)
    output: str = Field("", description=OUTPUT)
    overwrite: bool = Field(False, description="Replace a file of that name.")


class _Planned(_Writes):
    dry_run: bool = Field(False, description="Only say what would be done; the answer has `plan` and no job.")


class ConvertBody(_Planned):
    """Another format, precision, layout; pruned; parts left out or put in."""

    precision: str = Field(
        "",
        description="fp32, fp16, bf16, fp8_e4m3, fp8_e5m2 or fp8_scaled, for all parts or as"
        " `unet=fp8_e4m3,te=fp16,vae=fp32`; empty keeps what is there.",
    )
    clip: bool = Field(False, description="In fp16, 65504 instead of infinity for what lies beyond.")
    prune: bool = Field(False, description="Leave out averages, schedule buffers and training leftovers.")
    ema: Literal["drop", "use", "keep"] = Field("drop", description="With `prune`: what becomes of EMA weights.")
    keep_schedule: bool = Field(False, description="With `prune`: keep the schedule buffers.")
    layout: Literal["ldm", "diffusers"] | None = Field(None, description="Spelling of the names (SD1, SD2, SDXL).")
    only: str | None = Field(None, description="Take one part out: unet, te, vae, clip_l, clip_g or clip_h.")
    drop: list[Literal["unet", "te", "vae"]] = Field(default_factory=list, description="Parts to leave out.")
    put: dict[str, str] = Field(default_factory=dict, description="Part to the model file that gives it.")


class RepairBody(_Planned):
    """Damaged ids, wrong markers, contradicting metadata, early names, missing or doubled parts."""

    prediction: Literal["epsilon", "v", "v+ztsnr"] | None = Field(None, description="What you know better.")
    complete_from: str | None = Field(None, description="A model file that gives missing parts.")


class PublishBody(_Planned):
    """A copy for others: fp16, pruned, an ASCII name, clean metadata, hashes and model cards."""

    title: str | None = Field(None, description="Title; the file name is made from it.")
    author: str | None = None
    license: str | None = Field(None, description="For instance CC0-1.0.")
    resolution: str | None = Field(None, description="As 1024x1024; the family's where it is left out.")
    thumbnail: str = Field("", description="A PNG, JPEG or WebP picture in base64.")
    precision: str = Field("fp16", description="As for /convert.")
    remove_private: bool = Field(False, description="Take training metadata (data sets, paths, prompts) away.")
    repair: bool = Field(True, description="Mend on the way what can be mended.")


class CompareBody(_Body):
    """Two models tensor by tensor."""

    first: str = Field(description=NAME)
    second: str = Field(description=NAME)


class VerifyBody(_Body):
    """Models checked for damage."""

    names: list[str] = Field(default_factory=list, description=NAME + " All of the host's where none is named.")
    read_values: bool = Field(True, description="Read the values too: finds NaN and infinity.")
    hashes: str = Field("", description="Lines `HASH  NAME`, as sha256sum writes them; SHA-256, AutoV2 or AutoV3.")
    known_hashes: bool = Field(False, description="Compare with the hash that the host knows, where no line names it.")


class LoraBody(_Body):
    """A LoRA to bake in."""

    name: str = Field(description="A LoRA by the name that the host's own list has; never a path.")
    strength: float = 1.0
    blocks: str = Field("", description="Weights for single blocks, as NAME=value.")


class MergeBody(_Body):
    """A merge of the host's checkpoints."""

    models: list[str] = Field(description="Checkpoints A, B, C … by name.")
    method: str = Field("weighted_sum", description="A method's id, as `modelsmith merge --help` lists them.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Values of the method's parameters.")
    block_weights: dict[str, str] = Field(default_factory=dict, description="Parameter to its weights for each block.")
    rules: dict[str, str] = Field(default_factory=dict, description="Parameter to rules for single tensors.")
    finetune: str = Field("", description="Adjustments after the merge.")
    loras: list[LoraBody] = Field(default_factory=list, description="LoRAs baked into the result.")
    component_precision: dict[str, str] = Field(
        default_factory=dict, description="unet, text_encoder, vae to a precision of its own."
    )
    output: str = Field(description="Name of the new file, without a folder.")
    precision: str | None = Field(None, description="fp32, fp16, bf16, fp8_…; as model A where it is left out.")
    device: str = Field("cpu", description=DEVICE)
    allow_prediction_mix: str | None = Field(None, description="Needed to mix prediction types; see the error.")
    overwrite: bool = Field(False, description="Replace a file of that name.")
    dry_run: bool = Field(False, description="Only say what would be done; the answer has `plan` and no job.")


class _Recipe(_Body):
    name: str = Field("", description="A checkpoint that holds a recipe: a recipe checkpoint, or a merged file.")
    history: str = Field("", description="Or the id of a history entry.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Or the recipe itself.")


class ReplayBody(_Recipe):
    """A recipe made into a file."""

    output: str = Field("", description="Name of the new file, without a folder; the recipe's where it is left out.")
    device: str = Field("", description=RECIPES_DEVICE)
    overwrite: bool = Field(False, description="Replace a file of that name.")
    dry_run: bool = Field(False, description="Only say what would be done; the answer has `plan` and no job.")


class RecipeBody(MergeBody, _Recipe):
    """A merge kept as a recipe checkpoint: the fields of a merge, or a recipe."""

    models: list[str] = Field(default_factory=list, description="Checkpoints A, B, C … by name; empty with a recipe.")
    output: str = Field("", description="Name of the recipe checkpoint, without a folder.")
    device: str = Field("", description=RECIPES_DEVICE)


class DifferenceBody(_Body):
    """How far B, or B − C, is from A."""

    a: str = Field(description=NAME)
    b: str = Field(description=NAME)
    c: str = Field("", description=NAME)


class MoveBody(_Body):
    """A new place for a job that waits."""

    place: int = Field(ge=0, description="Among those that wait; 0 runs next.")


class _Vae(_Body):
    name: str = Field(description=NAME + " A VAE, or a checkpoint with one in it.")
    family: FAMILY | None = Field(None, description="What the VAE belongs to, where you know it.")


class _Calibrated(_Vae):
    latents: int = Field(3, ge=1, le=64, description="How many Gaussian latents to decode.")
    size: int = Field(32, ge=2, le=128, description="Their side in latent pixels.")
    seed: int = 0
    images: list[str] = Field(
        default_factory=list, description="Up to 16 pictures to try it on as well: PNG, JPEG or WebP in base64."
    )


class VaeCheckBody(_Calibrated):
    """What a VAE is and whether it runs in fp16."""

    measure: bool = Field(False, description="Run it and report each layer's largest value.")


class VaeFixBody(_Calibrated):
    """A copy that runs in fp16 with the same output."""

    output: str = Field("", description=OUTPUT)
    overwrite: bool = False
    headroom: float = Field(4.0, ge=1, le=1024, description="Factor to leave below 65,504.")
    part: Literal["both", "decoder", "encoder"] = "both"
    compare_bf16: bool = Field(False, description="Also report the original's error in bf16.")


class VaeBakeBody(_Vae):
    """A VAE put into a checkpoint."""

    checkpoint: str = Field(description=NAME)
    output: str = Field("", description=OUTPUT)
    overwrite: bool = False
    precision: HALF | None = Field(None, description="As it is where left out.")
    force: bool = Field(False, description="Bake a VAE of another family too.")


class VaeExtractBody(_Vae):
    """A VAE taken out of a checkpoint, or written anew."""

    output: str = Field("", description=OUTPUT)
    overwrite: bool = False
    naming: Literal["ldm", "diffusers"] = "ldm"
    precision: HALF | None = Field(None, description="As it is where left out.")


class _LoraWrites(_Body):
    output: str = Field("", description=OUTPUT)
    overwrite: bool = Field(False, description="Replace a file of that name.")
    dry_run: bool = Field(False, description="Only say what would be done; the answer has `plan` and no job.")


class LoraBakeBody(_LoraWrites):
    """LoRAs baked into a checkpoint."""

    checkpoint: str = Field(description="A checkpoint by the name that the host's own list has; never a path.")
    loras: list[LoraBody] = Field(description="The LoRAs, in this order.")
    precision: HALF | None = Field(None, description="As it is where left out.")
    strict: bool = Field(False, description="Stop where a module finds no place.")
    any_architecture: bool = Field(False, description="Let the shapes alone decide what fits.")


class _LoraMade(_LoraWrites):
    energy: float | None = Field(None, gt=0, le=1, description="Keep this share of the sum of squares.")
    seed: int = Field(0, description="Of the random basis.")
    precision: HALF = Field("fp16", description="Of the LoRA.")
    device: str = Field("cpu", description="Where singular values are found: cpu, cuda, cuda:0 or auto.")


class LoraExtractBody(_LoraMade):
    """A LoRA of what a tuned model has beyond the model that it came from."""

    base: str = Field(description="The model that it came from, by name.")
    tuned: str = Field(description="The tuned model, by name.")
    rank: int = Field(32, ge=1, description="Of linear layers; the most with `energy`.")
    conv_rank: int | None = Field(None, ge=0, description="Of larger kernels: as `rank` where left out, 0 for none.")
    components: Literal["all", "unet", "text"] = Field("all", description="The parts to take.")
    differences: bool = Field(False, description="Biases and norms too, as full differences.")
    threshold: float = Field(0.0, ge=0, description="Leave out what changes less.")
    clamp: float | None = Field(None, ge=0.5, le=1, description="Clamp factors beyond this quantile.")
    method: Literal["auto", "exact", "random"] = Field("auto", description="How factors are found.")


class LoraMergeBody(_LoraMade):
    """One LoRA of several; or of one with another rank. Without `rank` and `energy` exact: the ranks add up."""

    loras: list[LoraBody] = Field(description="The LoRAs with their strengths.")
    rank: int | None = Field(None, ge=1, description="The most that a module gets.")


class LoraCheckBody(_Body):
    """What a LoRA holds and how it fits."""

    name: str = Field(description="A LoRA by the name that the host's own list has; never a path.")
    checkpoint: str = Field("", description="The checkpoint to put it to, by name.")


class JobAnswer(BaseModel):
    """A job. state: queued, running, done, failed or cancelled."""

    id: str
    kind: str
    title: str = Field("", description="What it makes.")
    state: str
    progress: float = Field(description="0 to 1.")
    text: str = Field(description="What it does now.")
    seconds: float | None = None
    result: dict[str, Any] | None = Field(None, description="What came of it, where it is done.")
    error: str | None = Field(None, description="What went wrong, in the language that was asked for.")
    remedy: str | None = None
    code: str | None = Field(None, description="What went wrong, for programs: `bad_file`, `no_space` …")


class StartedAnswer(BaseModel):
    """Either the job that was started, or the plan that was asked for."""

    job: JobAnswer | None = None
    plan: dict[str, Any] | None = Field(None, description="With `dry_run`: what would be done.")
