"""The specification of every merge method."""

from __future__ import annotations

from modelsmith.merge.methods.spec import MethodSpec, ParameterSpec, declare

ALPHA = ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True)

WEIGHTED_SUM = declare(
    MethodSpec(
        id="weighted_sum",
        label="Weighted sum",
        formula="A·(1 − alpha) + B·alpha",
        summary="Mixes two models; 0 gives A, 1 gives B.",
        reference="AUTOMATIC1111 stable-diffusion-webui, modules/extras.py",
        models=(2, 2),
        parameters=(ALPHA,),
        scope="elements",
        effect="sum",
        module="modelsmith.merge.methods.basic",
        arrives=True,
    )
)

ADD_DIFFERENCE = declare(
    MethodSpec(
        id="add_difference",
        label="Add difference",
        formula="A + (B − C)·alpha",
        summary="Carries what B learned beyond its parent C over to A.",
        reference="AUTOMATIC1111 stable-diffusion-webui, modules/extras.py",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 1.0, 0.0, 2.0, per_block=True),),
        scope="elements",
        effect="difference",
        module="modelsmith.merge.methods.basic",
    )
)

BETA = ParameterSpec("beta", "Beta", 0.25, 0.0, 1.0, per_block=True)
SEED = ParameterSpec("seed", "Seed", 0, 0, 2**31 - 1, step=1, integer=True, strict=True)
_COMBINE = "modelsmith.merge.methods.combine"
_GEOMETRY = "modelsmith.merge.methods.geometry"
_SPARSE = "modelsmith.merge.methods.sparse"

TRIPLE_SUM = declare(
    MethodSpec(
        id="triple_sum",
        label="Triple sum",
        formula="A·(1 − alpha − beta) + B·alpha + C·beta",
        summary="Mixes three models at once.",
        reference="hako-mikan/sd-webui-supermerger, calcmodes",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 0.25, 0.0, 1.0, per_block=True), BETA),
        scope="elements",
        effect="sum",
        module=_COMBINE,
        neutral=("alpha", "beta"),
        arrives=True,
        weighs_c="beta",
    )
)

SUM_TWICE = declare(
    MethodSpec(
        id="sum_twice",
        label="Sum twice",
        formula="(A·(1 − alpha) + B·alpha)·(1 − beta) + C·beta",
        summary="A weighted sum of A and B, and of that with C.",
        reference="hako-mikan/sd-webui-supermerger, calcmodes",
        models=(3, 3),
        parameters=(ALPHA, BETA),
        scope="elements",
        effect="sum",
        module=_COMBINE,
        neutral=("alpha", "beta"),
        arrives=True,
        weighs_c="beta",
    )
)

TRAIN_DIFFERENCE = declare(
    MethodSpec(
        id="train_difference",
        label="Train difference",
        formula="A + 1.8·alpha·s·(B − C), s = |B − A| / (|B − A| + |B − C|)",
        summary="Add difference, weaker where A already has what B learned.",
        reference="hako-mikan/sd-webui-supermerger, trainDifference (mergers.py)",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 1.0, 0.0, 2.0, per_block=True),),
        scope="elements",
        effect="difference",
        module=_COMBINE,
    )
)

MULTIPLY_DIFFERENCE = declare(
    MethodSpec(
        id="multiply_difference",
        label="Multiply difference",
        formula="A' = A − C, B' = B − C; C + |A'|^(1 − alpha)·|B'|^alpha with the sign of A'·(1 − alpha) + B'·alpha",
        summary="The geometric mean of two differences from one parent.",
        reference="s1dlx/meh, merge_methods.py multiply_difference",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True, strict=True),),
        scope="elements",
        effect="sum",
        module=_COMBINE,
    )
)

SIMILARITY_ADD_DIFFERENCE = declare(
    MethodSpec(
        id="similarity_add_difference",
        label="Similarity add difference",
        formula="A + (B − C)·alpha, and towards A·(1 − alpha/2) + B·alpha/2 by k = ((A·B / max(|A|, |B|)²) + 1)/2·beta",
        summary="Add difference where A and B differ, weighted sum where they agree.",
        reference="s1dlx/meh, merge_methods.py similarity_add_difference",
        models=(3, 3),
        parameters=(ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True), BETA),
        scope="elements",
        effect="difference",
        module=_COMBINE,
    )
)

N_AVERAGE = declare(
    MethodSpec(
        id="n_average",
        label="Average",
        formula="(A + B + C + …) / n",
        summary="The mean of any number of models.",
        reference="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
        models=(2, None),
        parameters=(),
        scope="elements",
        effect="sum",
        module=_COMBINE,
        neutral=(),
    )
)

GEOMETRIC = declare(
    MethodSpec(
        id="geometric",
        label="Geometric",
        formula="sign(A·(1 − alpha) + B·alpha)·|A|^(1 − alpha)·|B|^alpha",
        summary="The weighted geometric mean of magnitudes, with the sign of the weighted sum.",
        reference="Faildes/Chattiori-Model-Merger, geometric; signed, where a power of a negative weight would be NaN",
        models=(2, 2),
        parameters=(ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True, strict=True),),
        scope="elements",
        effect="sum",
        module=_COMBINE,
        arrives=True,
    )
)

EXTRACT = declare(
    MethodSpec(
        id="extract",
        label="Extract",
        formula="A + lerp(B − A, C − A, alpha)·lerp(d, 1 − d, beta), d = ((cos(B − A, C − A) + 1)/2)^gamma",
        summary="Keeps of two differences from A what they share (beta 0) or what sets them apart (beta 1).",
        reference="hako-mikan/sd-webui-supermerger, extract (mergers.py); the cosine runs along the last dimension",
        models=(3, 3),
        parameters=(
            ALPHA,
            ParameterSpec("beta", "Beta", 0.0, 0.0, 1.0, per_block=True),
            ParameterSpec("gamma", "Gamma", 1.0, 0.0, 15.0),
        ),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        neutral=(),
    )
)

SLERP = declare(
    MethodSpec(
        id="slerp",
        label="Slerp",
        formula="(A·sin((1 − alpha)·w) + B·sin(alpha·w)) / sin(w), w the angle between A and B",
        summary="Turns A towards B along the arc, so that the length does not shrink halfway.",
        reference="Shoemake 1985; on whole tensors as in ljleb/sd-mecha and arcee-ai/mergekit",
        models=(2, 2),
        parameters=(ALPHA,),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        arrives=True,
    )
)

EUCLIDEAN_ADD_DIFFERENCE = declare(
    MethodSpec(
        id="euclidean_add_difference",
        label="Euclidean add difference",
        formula="C ± k·sqrt((a·(1 − alpha))² + (b·alpha)²), a = A − C, b = B − C, k keeps the mean of their lengths",
        summary="Adds two differences like perpendicular vectors, value by value.",
        reference="s1dlx/meh, merge_methods.py euclidean_add_difference",
        models=(3, 3),
        parameters=(ALPHA,),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
    )
)

TENSOR_SUM = declare(
    MethodSpec(
        id="tensor_sum",
        label="Tensor sum",
        formula="rows from beta to alpha + beta of B, the others of A",
        summary="Takes a slice of each tensor's rows from B; beta is where it begins, and it wraps around.",
        reference="hako-mikan/sd-webui-supermerger, tensor",
        models=(2, 2),
        parameters=(
            ParameterSpec("alpha", "Alpha", 0.5, 0.0, 1.0, per_block=True, strict=True),
            ParameterSpec("beta", "Beta", 0.0, 0.0, 1.0, per_block=True, strict=True),
        ),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        arrives=True,
    )
)

TENSOR_SUM_COLUMNS = declare(
    MethodSpec(
        id="tensor_sum_columns",
        label="Tensor sum (columns)",
        formula="columns from beta to alpha + beta of B, the others of A",
        summary="Takes a slice of each tensor's columns from B, of vectors a slice of their values.",
        reference="hako-mikan/sd-webui-supermerger, tensor2",
        models=(2, 2),
        parameters=TENSOR_SUM.parameters,
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        arrives=True,
    )
)

MODEL_STOCK = declare(
    MethodSpec(
        id="model_stock",
        label="Model stock",
        formula="A + t·(mean(B, C, …) − A), t = n·cos / (1 + (n − 1)·cos), cos the mean cosine of B − A, C − A, …",
        summary="Averages finetunes B, C … of A, and stays as near to A as they disagree.",
        reference="Jang et al. 2024, Model Stock, arXiv:2403.19522",
        models=(3, None),
        parameters=(),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        neutral=(),
    )
)

KARCHER = declare(
    MethodSpec(
        id="karcher",
        label="Karcher mean",
        formula="the point on the sphere with the least sum of squared angles to A, B, …, times their mean length",
        summary="Slerp's mean for any number of models, found by steps along the sphere.",
        reference="Karcher 1977; on whole tensors as in arcee-ai/mergekit",
        models=(2, None),
        parameters=(ParameterSpec("iterations", "Iterations", 20, 1, 200, step=1, integer=True, strict=True),),
        scope="tensor",
        effect="sum",
        module=_GEOMETRY,
        neutral=(),
    )
)

_DENSITY = ParameterSpec("density", "Density", 0.5, 0.0, 1.0, strict=True)
_SPARSE_ALPHA = ParameterSpec("alpha", "Alpha", 1.0, 0.0, 2.0, per_block=True)

TIES = declare(
    MethodSpec(
        id="ties",
        label="TIES",
        formula="A + alpha·mean of those trimmed differences B − A, C − A, … that have the elected sign",
        summary="Keeps the largest changes of each finetune of A and lets the majority decide each sign.",
        reference="Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
        models=(2, None),
        parameters=(_SPARSE_ALPHA, _DENSITY),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
    )
)

DARE = declare(
    MethodSpec(
        id="dare",
        label="DARE",
        formula="A + alpha·mean of (B − A)·m / density, …, m = 1 with the probability density",
        summary="Drops changes at random and scales up the rest; the seed makes it repeatable.",
        reference="Yu et al. 2023, Language Models are Super Mario, arXiv:2311.03099",
        models=(2, None),
        parameters=(_SPARSE_ALPHA, _DENSITY, SEED),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
        seeded=True,
    )
)

DARE_TIES = declare(
    MethodSpec(
        id="dare_ties",
        label="DARE-TIES",
        formula="A + alpha·mean of those differences, thinned out as in DARE, that have the elected sign",
        summary="DARE in place of TIES' trimming.",
        reference="Yu et al. 2023, arXiv:2311.03099, with Yadav et al. 2023, arXiv:2306.01708",
        models=(2, None),
        parameters=(_SPARSE_ALPHA, _DENSITY, SEED),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
        seeded=True,
    )
)

BREADCRUMBS = declare(
    MethodSpec(
        id="breadcrumbs",
        label="Breadcrumbs",
        formula="A + alpha·mean of B − A, … without its largest (gamma) and its smallest changes; density is kept",
        summary="Leaves out outliers and noise of each finetune's changes.",
        reference="Davari and Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795",
        models=(2, None),
        parameters=(
            _SPARSE_ALPHA,
            ParameterSpec("density", "Density", 0.9, 0.0, 1.0, strict=True),
            ParameterSpec("gamma", "Outliers", 0.01, 0.0, 1.0, strict=True),
        ),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
    )
)

DELLA = declare(
    MethodSpec(
        id="della",
        label="DELLA",
        formula="A + alpha·mean of those (B − A)·m / p, … that have the elected sign, m = 1 with the probability p, "
        "p = density + (rank of |B − A| in its row, in 0..1, − 1/2)·window",
        summary="DARE-TIES in which large changes are kept more often than small ones.",
        reference="Deep et al. 2024, DELLA-Merging, arXiv:2406.11617; ranks by row as in arcee-ai/mergekit",
        models=(2, None),
        parameters=(_SPARSE_ALPHA, _DENSITY, ParameterSpec("window", "Window", 0.2, 0.0, 1.0, strict=True), SEED),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
        seeded=True,
    )
)

DROPOUT = declare(
    MethodSpec(
        id="dropout",
        label="Dropout",
        formula="A + alpha·(sum of (B − A)·m, …) / max(1, sum of m) / density^rescale, "
        "m = 1 with the probability density",
        summary="Drops changes at random and averages those that are left at each place.",
        reference="ljleb/sd-mecha, dropout (n-supermario), with independent masks",
        models=(2, None),
        parameters=(_SPARSE_ALPHA, _DENSITY, ParameterSpec("rescale", "Rescale", 1.0, 0.0, 1.0), SEED),
        scope="tensor",
        effect="delta",
        module=_SPARSE,
        seeded=True,
    )
)
