"""Methods that look at whole tensors: angles, lengths, rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.basic import add_scaled, weighted_sum
from modelsmith.merge.methods.spec import implements

_NEARLY_PARALLEL = 1e-6


def _length(values: Tensor) -> float:
    """The Euclidean length of a tensor as one vector, in fp64."""
    flat = values.double().reshape(-1)
    return math.sqrt(float(torch.dot(flat, flat)))


def _cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two tensors as vectors, in fp64; 1 where one of them is zero."""
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    lengths = _length(a) * _length(b)
    return 1.0 if lengths == 0 else max(-1.0, min(1.0, float(torch.dot(a, b)) / lengths))


@implements(catalogue.EXTRACT)
def extract(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float, gamma: float) -> Tensor:
    """The likeness d of the two differences, along the last dimension, decides how much of their mix is kept."""
    if not a.numel():
        return a.clone()
    one, other = b - a, c - a
    shaped = (one, other) if a.dim() else (one.reshape(1), other.reshape(1))
    cosine = torch.nn.functional.cosine_similarity(*shaped, dim=-1).clamp(-1, 1).unsqueeze(-1)
    likeness = ((cosine + 1) / 2).pow(gamma)
    share = likeness + (1 - 2 * likeness) * beta
    return a + weighted_sum(one, other, alpha=alpha) * share.reshape(share.shape if a.dim() else ())


@implements(catalogue.SLERP)
def slerp(a: Tensor, b: Tensor, *, alpha: float) -> Tensor:
    """Along the arc between the directions, with lengths mixed linearly; a weighted sum where A and B are parallel."""
    cosine = _cosine(a, b)
    if not a.numel() or 1.0 - abs(cosine) < _NEARLY_PARALLEL:
        return weighted_sum(a, b, alpha=alpha)
    angle = math.acos(cosine)
    length_a, length_b = _length(a), _length(b)
    length = length_a + (length_b - length_a) * alpha
    from_a = math.sin((1 - alpha) * angle) / math.sin(angle) * length / length_a
    from_b = math.sin(alpha * angle) / math.sin(angle) * length / length_b
    return a * from_a + b * from_b


@implements(catalogue.EUCLIDEAN_ADD_DIFFERENCE)
def euclidean_add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """The result's difference has the weighted mean of the two lengths; the sign of the weighted sum decides."""
    one, other = a - c, b - c
    distance = ((one * (1 - alpha)).square() + (other * alpha).square()).sqrt()
    signed = torch.copysign(distance, weighted_sum(one, other, alpha=alpha))
    target = _length(one) * (1 - alpha) + _length(other) * alpha
    length = _length(signed)
    return c + signed * (target / length if length else 0.0)


def _slice_of_b(a: Tensor, b: Tensor, axis: int, alpha: float, beta: float) -> Tensor:
    if not a.dim() or not a.numel():
        return (b if alpha > 0.5 else a).clone()
    size = a.shape[axis]
    first, end = round(size * beta), round(size * (alpha + beta))
    chosen = (torch.arange(size, device=a.device) - first) % size < end - first
    return torch.where(chosen.reshape([-1 if place == axis else 1 for place in range(a.dim())]), b, a)


@implements(catalogue.TENSOR_SUM)
def tensor_sum(a: Tensor, b: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Along the first dimension."""
    return _slice_of_b(a, b, 0, alpha, beta)


@implements(catalogue.TENSOR_SUM_COLUMNS)
def tensor_sum_columns(a: Tensor, b: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Along the second dimension, or the only one."""
    return _slice_of_b(a, b, min(1, max(0, a.dim() - 1)), alpha, beta)


@implements(catalogue.MODEL_STOCK)
def model_stock(a: Tensor, *finetunes: Tensor) -> Tensor:
    """The closed form of the paper, with the mean over all pairs of finetunes as the cosine, not below 0."""
    differences = [model - a for model in finetunes]
    count = len(differences)
    pairs = [_cosine(differences[one], differences[other]) for one in range(count) for other in range(one + 1, count)]
    cosine = max(0.0, sum(pairs) / len(pairs)) if pairs else 1.0
    share = count * cosine / (1 + (count - 1) * cosine)
    mean = differences[0].clone()
    for number, difference in enumerate(differences[1:], start=2):
        mean = add_scaled(mean, difference - mean, 1.0 / number)
    return add_scaled(a, mean, share)


@implements(catalogue.KARCHER)
def karcher(*models: Tensor, iterations: float) -> Tensor:
    """Steps to the mean of the models' logarithms at the present point, until they no longer move it."""
    vectors = [model.double().reshape(-1) for model in models]
    lengths = [_length(vector) for vector in vectors]
    mean = torch.stack(vectors).mean(0) if vectors[0].numel() else vectors[0].clone()
    if not vectors[0].numel() or min(lengths) == 0 or _length(mean) < 1e-12:
        return mean.reshape(models[0].shape).to(models[0].dtype)
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
    point = torch.stack(units).mean(0)
    if _length(point) < 1e-12:
        return mean.reshape(models[0].shape).to(models[0].dtype)
    point = point / _length(point)
    for _ in range(int(iterations)):
        step = torch.zeros_like(point)
        for unit in units:
            cosine = max(-1.0, min(1.0, float(torch.dot(point, unit))))
            angle = math.acos(cosine)
            if angle > _NEARLY_PARALLEL:
                step += (unit - point * cosine) * (angle / math.sin(angle) / len(units))
        size = _length(step)
        if size < 1e-10:
            break
        point = point * math.cos(size) + step * (math.sin(size) / size)
    return (point * (sum(lengths) / len(lengths))).reshape(models[0].shape).to(models[0].dtype)
