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
