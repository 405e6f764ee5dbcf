"""Merge methods: pure functions on tensors, each with a specification that every surface is generated from."""

from __future__ import annotations

from modelsmith.merge.methods import catalogue, catalogue_likeness
from modelsmith.merge.methods.spec import METHODS, MethodSpec, ParameterSpec, get_method

__all__ = ["METHODS", "MethodSpec", "ParameterSpec", "catalogue", "catalogue_likeness", "get_method"]
