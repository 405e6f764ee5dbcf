"""Whether a module's factors fit the rows they are meant for, told from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

Shape = tuple[int, ...]

_WHOLE = ("diff", "set_weight", "w_norm")


def produced(algebra: str, shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    """Rows and values per row of the weight that the factors make; None where factors do not fit each other.

    shapes: by role. OFT and BOFT turn whatever they are given: their second number is 0.
    """
    if algebra == "lora":
        return _low_rank(shapes)
    if algebra == "loha":
        return _hadamard(shapes)
    if algebra == "lokr":
        return _kronecker(shapes)
    if algebra in ("oft", "boft"):
        blocks = shapes["oft_blocks"]
        if len(blocks) < 3 or blocks[-1] != blocks[-2]:
            return None
        rows = blocks[-3] * blocks[-2]
        if len(blocks) == 4 and (blocks[-1] % 2 or rows % (2 ** (blocks[0] - 1) * blocks[-1])):
            return None  # BOFT's last round pairs rows that many apart
        return (rows, 0)
    made = {((shapes[role] or (1,))[0], prod(shapes[role][1:])) for role in _WHOLE if role in shapes}
    return made.pop() if len(made) == 1 else None


def _low_rank(shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    if len(up) < 2 or len(down) < 2 or prod(up) != up[0] * up[1]:
        return None
    if mid is None:
        return (up[0], prod(down[1:])) if up[1] == down[0] else None
    if len(mid) < 2 or up[1] != mid[0] or down[0] != mid[1] or prod(down) != down[0] * down[1]:
        return None
    return (up[0], down[1] * prod(mid[2:]))


def _hadamard(shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    results: set[tuple[int, int]] = set()
    for which in "12":
        a, b = shapes[f"hada_w{which}_a"], shapes[f"hada_w{which}_b"]
        core = shapes.get(f"hada_t{which}")
        if len(a) < 2 or len(b) < 2:
            return None
        if core is None:
            if a[1] != b[0]:
                return None
            results.add((a[0], prod(b[1:])))
        else:
            if len(core) < 2 or a[0] != core[0] or b[0] != core[1]:
                return None
            results.add((a[1], b[1] * prod(core[2:])))
    return results.pop() if len(results) == 1 else None


def _kronecker(shapes: Mapping[str, Shape]) -> tuple[int, int] | None:
    def pair(which: int) -> tuple[int, int] | None:
        whole = shapes.get(f"lokr_w{which}")
        if whole is not None:
            return (whole[0], prod(whole[1:])) if len(whole) >= 2 else None
        a, b = shapes[f"lokr_w{which}_a"], shapes[f"lokr_w{which}_b"]
        core = shapes.get("lokr_t2") if which == 2 else None
        if len(a) < 2 or len(b) < 2:
            return None
        if core is not None:
            fits = len(core) >= 2 and a[0] == core[0] and b[0] == core[1]
            return (a[1], b[1] * prod(core[2:])) if fits else None
        return (a[0], prod(b[1:])) if a[1] == b[0] else None

    first, second = pair(1), pair(2)
    return (first[0] * second[0], first[1] * second[1]) if first and second else None
