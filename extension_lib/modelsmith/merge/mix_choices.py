"""What a user may choose who wants a merge across prediction types all the same.

By itself, as a page offers the choices long before a merge has to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping

CHOICES: Mapping[str, str] = {
    "epsilon": "mark the result as an epsilon model",
    "v_prediction": "mark the result as a v-prediction model",
    "edm": "mark the result as an EDM model",
    "edm_v_prediction": "mark the result as an EDM v-prediction model",
    "flow": "mark the result as a flow model",
}
