"""What a model file is, from its header alone, with the evidence for it."""

from __future__ import annotations

from modelsmith.identify.identifier import identify, identify_header
from modelsmith.identify.report import Component, Evidence, Prediction, Report

__all__ = ["Component", "Evidence", "Prediction", "Report", "identify", "identify_header"]
