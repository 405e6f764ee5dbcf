"""What the adapters and their stand-ins take for granted of a webui, held against the real one.

With MODELSMITH_WRITE_NAMES=1 what is seen is kept in tests/host_names.json instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import host_names
from host.ldm_forge_expectations import is_classic
from host.server import Webui


def test_the_kept_names_are_those_of_this_webui(make_webui: Callable[..., Webui]) -> None:
    """Without Modelsmith, as its wrappers have signatures of their own."""
    webui = make_webui("names", ["sdxl-eps"])
    if webui.flavour not in host_names.SOURCES or (webui.flavour == "ldm_forge" and is_classic(webui)):
        pytest.skip(f"no names are kept of {webui.root.name}")
    webui.configure(sd_model_checkpoint="sdxl-eps.safetensors")
    webui.start()
    try:
        webui.txt2img()
        names = sorted(host_names.used_names(webui.flavour) | set(host_names.LOADED[webui.flavour]))
        seen = webui.post("/modelsmith-probe/v1/names", names)
    finally:
        webui.stop()
    if os.environ.get("MODELSMITH_WRITE_NAMES"):
        host_names.keep(webui.flavour, seen)
    assert seen == host_names.kept()[webui.flavour]
