"""A VAE's weights as a table to calculate with, checked for values that are no numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from modelsmith.errors import BadFileError
from modelsmith.files.tensors import TensorSource
from modelsmith.vae.keys import is_attention_matrix
from modelsmith.vae.layout import VaeFile


def load_weights(vae: VaeFile, source: TensorSource) -> dict[str, Tensor]:
    """Read all tensors of a VAE in their own types, by canonical name, attention matrices as [C, C].

    Raises BadFileError, naming the tensor, where a value is NaN or infinite.
    """
    found: dict[str, Tensor] = {}
    for name, actual in vae.names.items():
        tensor = source.load(actual)
        if not bool(torch.isfinite(tensor).all()):
            raise BadFileError(
                vae.header.path,
                f"the VAE's tensor {actual!r} has NaN or infinite values",
                "The file is damaged or its making overflowed: get the VAE again",
            )
        found[name] = tensor.reshape(tensor.shape[:2]) if is_attention_matrix(name) else tensor
    return found


def widened(weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The same table in the type that it is to be calculated in."""
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def rounded(weights: dict[str, Tensor], storage: torch.dtype) -> dict[str, Tensor]:
    """The table as a run in ``storage`` would hold it, its values given as fp32."""
    return {name: tensor.to(storage).to(torch.float32) for name, tensor in weights.items()}


def load_statistics(vae: VaeFile, source: TensorSource) -> dict[str, Tensor] | None:
    """FLUX.2's running mean and variance of packed latents; None for every other family. Raises BadFileError."""
    if not vae.layout.batch_norm:
        return None
    found = {name: source.load(vae.prefix + name) for name in ("bn.running_mean", "bn.running_var")}
    wanted = (4 * vae.layout.latent_channels,)
    for name, tensor in found.items():
        if tuple(tensor.shape) != wanted or not bool(torch.isfinite(tensor).all()):
            raise BadFileError(
                vae.header.path, f"the VAE's tensor {vae.prefix + name!r} is not {wanted[0]} finite values"
            )
    return found
