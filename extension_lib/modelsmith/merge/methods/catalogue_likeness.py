"""The specification of methods that look at the likeness, the order or the neighbourhood of values."""

from __future__ import annotations

from modelsmith.merge.methods.catalogue import ALPHA, SEED
from modelsmith.merge.methods.spec import MethodSpec, ParameterSpec, declare

_COSINE = "modelsmith.merge.methods.cosine"
_SIGNALS = "modelsmith.merge.methods.signals"
_MATRICES = "modelsmith.merge.methods.matrices"
_STRICT_ALPHA = ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True, strict=True)
_OFFSET = ParameterSpec("beta", "Beta", 0.0, 0.0, 1.0, per_block=True, strict=True)

COSINE_A = declare(
    MethodSpec(
        id="cosine_a",
        label="Cosine A",
        formula="A·k + B·(1 − k), k = clip((s − low) / (high − low) − |alpha|), s = (cosine of each column of A and B "
        "+ their mean) / 2, low and high: the range of all cosines of the model without its outermost hundredths",
        summary="Keeps A where both models are alike, and takes B's details elsewhere.",
        reference="hako-mikan/sd-webui-supermerger, cosineA (mergers.py)",
        models=(2, 2),
        parameters=(ALPHA,),
        scope="tensor",
        effect="sum",
        module=_COSINE,
        neutral=(),
        statistics=("low", "high"),
    )
)

COSINE_B = declare(
    MethodSpec(
        id="cosine_b",
        label="Cosine B",
        formula="as Cosine A, with s = (cosine of each column + cosine of the whole tensors) / 2, also for the range",
        summary="As Cosine A, but long columns count for more in the likeness of a tensor.",
        reference="hako-mikan/sd-webui-supermerger, cosineB (mergers.py)",
        models=(2, 2),
        parameters=(ALPHA,),
        scope="tensor",
        effect="sum",
        module=_COSINE,
        neutral=(),
        statistics=("low", "high"),
    )
)

SMOOTH_ADD = declare(
    MethodSpec(
        id="smooth_add",
        label="Smooth add",
        formula="A + alpha·gauss(median(B − C)), over neighbours in the tensor: median of 3, Gaussian of sigma 1",
        summary="Add difference without the difference's single outliers.",
        reference="hako-mikan/sd-webui-supermerger, smoothAdd (mergers.py); filters as in scipy.ndimage",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 1.0, 0.0, 2.0, per_block=True),),
        scope="tensor",
        effect="difference",
        module=_SIGNALS,
    )
)

TOP_K_TENSOR_SUM = declare(
    MethodSpec(
        id="top_k_tensor_sum",
        label="Top-k tensor sum",
        formula="A's values in the order of B's, for those values whose magnitude ranks from beta to alpha + beta",
        summary="Gives A's values B's order; beta is the rank where it begins, and it wraps around.",
        reference="s1dlx/meh, merge_methods.py top_k_tensor_sum",
        models=(2, 2),
        parameters=(_STRICT_ALPHA, _OFFSET),
        scope="tensor",
        effect="delta",
        module=_SIGNALS,
    )
)

DISTRIBUTION_CROSSOVER = declare(
    MethodSpec(
        id="distribution_crossover",
        label="Distribution crossover",
        formula="in the order of C's values: low frequencies of A, the share alpha of high ones of B, edge beta wide",
        summary="Sorts by C, and takes slow changes along that order from A and fast ones from B.",
        reference="s1dlx/meh, merge_methods.py distribution_crossover; there alpha counts the other way",
        models=(3, 3),
        parameters=(_STRICT_ALPHA, _OFFSET),
        scope="tensor",
        effect="sum",
        module=_SIGNALS,
        arrives=True,
    )
)

COMPARATIVE_INTERPOLATION = declare(
    MethodSpec(
        id="comparative_interpolation",
        label="Comparative interpolation",
        formula="A·(1 − m) + B·m, d = |A − B| / max |A − B|, p = (1 − d)^(1/alpha − 1), with beta = 1 d^(1/alpha − 1), "
        "m = p for gamma = 1, 0 or 1 with the probability p for gamma = 0, mixed between",
        summary="Takes B where it is like A (beta 0) or unlike it (beta 1), more of it with a higher alpha.",
        reference="groinge/sd-webui-untitledmerger, comparative interpolation",
        models=(2, 2),
        parameters=(
            _STRICT_ALPHA,
            ParameterSpec("beta", "Difference", 0, 0, 1, step=1, integer=True, strict=True),
            ParameterSpec("gamma", "Evenness", 1.0, 0.0, 1.0, strict=True),
            SEED,
        ),
        scope="tensor",
        effect="sum",
        module=_SIGNALS,
        seeded=True,
        arrives=True,
    )
)

ENHANCED_INTERPOLATION = declare(
    MethodSpec(
        id="enhanced_interpolation",
        label="Enhanced interpolation",
        formula="as comparative interpolation with beta = 0, only in columns whose mean likeness 1 − d lies between "
        "low and high, A elsewhere",
        summary="Comparative interpolation of those columns only that are neither too like nor too unlike.",
        reference="groinge/sd-webui-untitledmerger, enhanced interpolation",
        models=(2, 2),
        parameters=(
            _STRICT_ALPHA,
            ParameterSpec("low", "Lower threshold", 0.0, 0.0, 1.0, strict=True),
            ParameterSpec("high", "Upper threshold", 1.0, 0.0, 1.0, strict=True),
            ParameterSpec("gamma", "Evenness", 1.0, 0.0, 1.0, strict=True),
            SEED,
        ),
        scope="tensor",
        effect="delta",
        module=_SIGNALS,
        seeded=True,
    )
)

ROTATE = declare(
    MethodSpec(
        id="rotate",
        label="Rotate",
        formula="lerp(A', B'·Qᵀ, alpha)·Q^alignment + lerp(mean A, mean B, alignment), A' = A − mean A, "
        "B' = B − mean B, Q the rotation that brings A' nearest to B'",
        summary="Turns A's weights towards B's without changing what they are to each other.",
        reference="Schönemann 1966, orthogonal Procrustes problem; as rotate of ljleb/sd-mecha, along the shorter side",
        models=(2, 2),
        parameters=(
            ParameterSpec("alignment", "Alignment", 1.0, 0.0, 1.0, per_block=True, strict=True),
            ParameterSpec("alpha", "Alpha", 0.0, 0.0, 1.0, per_block=True),
        ),
        scope="tensor",
        effect="delta",
        module=_MATRICES,
        neutral=("alignment", "alpha"),
    )
)

RANK_TRUNCATION = declare(
    MethodSpec(
        id="rank_truncation",
        label="Rank truncation",
        formula="A + alpha·(the nearest matrix to B − C whose rank is the share rank of the full one)",
        summary="Add difference with only the strongest directions of the difference.",
        reference="Eckart and Young 1936; truncate_rank of ljleb/sd-mecha, here exact",
        models=(3, 3),
        parameters=(
            ParameterSpec("alpha", "Alpha", 1.0, 0.0, 2.0, per_block=True),
            ParameterSpec("rank", "Rank", 0.25, 0.0, 1.0, strict=True),
        ),
        scope="tensor",
        effect="difference",
        module=_MATRICES,
    )
)
