"""Names by which a file says what it is, beside its weights. Needs neither torch nor numpy."""

from __future__ import annotations

MARKERS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
"""Tensors that tell the prediction type (ComfyUI comfy/supported_models.py, nodes_model_merging.py)."""

SCHEDULE_BUFFERS = frozenset(
    {
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
        "logvar", "lvlb_weights",
    }
)  # fmt: skip
"""Buffers that every host computes for itself (CompVis ldm/models/diffusion/ddpm.py, register_schedule)."""

LAST_ALPHA = "modelsmith.alphas_cumprod_last"
"""Metadata field for the last value of a dropped ``alphas_cumprod``: 0.0047 is the plain schedule, 0 zero SNR."""
