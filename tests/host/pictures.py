"""Pictures of a running webui, told apart by their pixels; and the cells of its X/Y/Z plot."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from host.server import Webui, WebuiError


def picture(webui: Webui, **fields: Any) -> str:
    """The pixels of one picture, hashed."""
    webui.txt2img(**fields)
    return pixels(webui.answer["images"][0])


def pixels(image: str) -> str:
    """A hash of a picture's colours; what else the file holds is left out.

    That is the infotext, and the alpha channel, where reForge writes the infotext once more into some cells of a plot.
    """
    return hashlib.sha256(colours(image).tobytes()).hexdigest()


def colours(image: str) -> npt.NDArray[np.uint8]:
    """A picture's colours, ``(height, width, 3)``."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
        return np.asarray(opened.convert("RGB"))


def infotext(webui: Webui) -> str:
    return str(json.loads(webui.answer["info"])["infotexts"][0])


Axis = tuple[str, str]
NO_AXIS: Axis = ("Nothing", "")


def cells(webui: Webui, axis: str, values: str) -> list[tuple[str, str]]:
    """Pixels and infotext of each cell of a row."""
    return plot(webui, (axis, values))


def plot(webui: Webui, x: Axis, y: Axis = NO_AXIS) -> list[tuple[str, str]]:
    """Pixels and infotext of each cell, row by row; each axis by its label and its values as they are typed."""
    info = webui.get("/sdapi/v1/script-info")
    script = next(one for one in info if one["name"] == "x/y/z plot" and not one["is_img2img"])
    labels = script["args"][0]["choices"]
    arguments: list[Any] = []
    count = 1
    for axis, values in (x, y, NO_AXIS):
        assert labels.count(axis) == 1
        chosen = values.split(",") if values else []
        arguments += [labels.index(axis), values, chosen]
        count *= max(1, len(chosen))
    # The webuis differ in what they ask besides; the labels are the same in all.
    wanted = {"Draw legend": False, "Include Sub Images": True, "Include Sub Grids": False}
    wanted |= {"Keep -1 for seeds": True, "Use text inputs instead of dropdowns": True}
    arguments += [wanted.get(str(arg["label"]), arg["value"]) for arg in script["args"][len(arguments) :]]
    try:
        webui.txt2img(script_name="x/y/z plot", script_args=arguments)
    except WebuiError as error:
        if "uni_pc_order" not in error.text:
            raise
        pytest.skip("every plot fails in this Classic: it reads an option that is gone")
    texts = json.loads(webui.answer["info"])["infotexts"]
    assert len(webui.answer["images"]) == len(texts) == count + 1
    return [(pixels(image), text) for image, text in zip(webui.answer["images"][1:], texts[1:], strict=True)]
