"""sd-mecha as an independent oracle, for the methods that it has too.

It brings scipy and other packages that nothing else here needs, so it is not among the tests' requirements: install
it (``pip install sd-mecha`` beside the torch that is there), or name an interpreter that has it in
MODELSMITH_MECHA_PYTHON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from merge.reference import ulp
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import MergeRequest

Models = tuple[Path, Path, Path]
PYTHON = os.environ.get("MODELSMITH_MECHA_PYTHON") or (
    sys.executable if importlib.util.find_spec("sd_mecha") is not None else ""
)
pytestmark = pytest.mark.skipif(not PYTHON, reason="needs sd-mecha, here or in MODELSMITH_MECHA_PYTHON")

CODE = """
import json, sys, torch, sd_mecha
paths, folder, wanted = json.loads(sys.argv[1])
recipes = {
    "weighted_sum": lambda a, b, c: sd_mecha.weighted_sum(a, b, alpha=0.3),
    "add_difference": lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=0.7),
    "slerp": lambda a, b, c: sd_mecha.slerp(a, b, alpha=0.4),
    "n_average": lambda a, b, c: sd_mecha.n_average(a, b, c),
}
for name in wanted:
    models = [sd_mecha.model(path) for path in paths]
    sd_mecha.merge(recipes[name](*models), output=f"{folder}/mecha-{name}.safetensors", merge_device="cpu",
                   merge_dtype=torch.float64, output_dtype=torch.float32)
"""

OURS = {
    "weighted_sum": (2, {"alpha": 0.3}, 0.502),
    "add_difference": (3, {"alpha": 0.7}, 0.51),
    "n_average": (3, {}, 0.51),
    "slerp": (2, {"alpha": 0.4}, 0.6),
}
"""Number of models, parameters, and how far in ulp of fp16 our result may be from sd-mecha's in fp64.

Slerp's angle comes from a sum over the whole tensor, in fp32 here."""


@pytest.fixture(scope="module")
def theirs(abc: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mecha")
    task = json.dumps([[str(path) for path in abc], str(folder), list(OURS)])
    done = subprocess.run([PYTHON, "-W", "ignore", "-c", CODE, task], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("method", list(OURS))
def test_our_result_is_theirs(abc: Models, tmp_path: Path, theirs: Path, method: str) -> None:
    number, parameters, limit = OURS[method]
    out = tmp_path / "o.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:number], method, out, parameters)))
    found, wanted = load_file(str(out)), load_file(str(theirs / f"mecha-{method}.safetensors"))
    assert len(found) > 1000 and found.keys() == wanted.keys()
    worst = 0.0
    for name, value in found.items():
        reference = wanted[name].double()
        # Their result is fp64 kept in fp32, but their weights are fp32 numbers: where values nearly cancel, that shows.
        worst = max(worst, float(((value.double() - reference).abs() / ulp(reference, value.dtype)).max()))
    assert worst <= limit
