"""Modelsmith's library: what a model file is, and the tensor work on it, without any webui.

Importing it loads neither torch nor numpy; the rooms that need them import them when they are imported.
"""

from __future__ import annotations

__version__ = "0.1.0"
