"""Damaged headers, pickles and GGUF files by the thousand: an answer every time, never a crash, a hang or an execution.

hypothesis draws a sound or half-sound file, and each is tried as it is and in twelve damaged forms.
MODELSMITH_FUZZ_CASES sets the number of files tried by each of the four tests; without it 5,200 are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_maker import header as gguf_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelsmith.files.inert_pickle import InertPickle, PickleError
from modelsmith.identify import Report, identify

CASES = int(os.environ.get("MODELSMITH_FUZZ_CASES", "5200"))
SLOWEST = 5.0  # seconds for one case on a busy machine; a hang is far beyond
FORMS = 13
SETTINGS = settings(
    max_examples=max(1, CASES // FORMS),
    deadline=None,
    database=None,
    derandomize=CASES <= 5200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    memory = Path("/dev/shm")  # where there is one: a disk is asked for nothing here but to be slow
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("fuzz")
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def answered(path: Path, data: bytes) -> Report:
    """Every file gets a report in time, and every report can be printed."""
    path.write_bytes(data)
    start = time.perf_counter()
    report = identify(path)
    assert time.perf_counter() - start < SLOWEST
    json.dumps(report.to_json("ja"))
    assert report.badge()
    if report.error is not None:
        assert report.kind == "unknown"
        assert path.name in report.error
    return report


NAMES = st.sampled_from(
    [
        "v_pred", "ztsnr", "edm_mean", "edm_std", "emb_params", "clip_l", "clip_g", "alphas_cumprod", "conv_in.weight",
        "input_blocks.0.0.weight", "out.2.weight", "output_blocks.0.0.in_layers.0.weight", "label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "zero_convs.0.0.weight",
        "decoder.conv_in.weight", "decoder.mid.block_1.conv1.weight", "img_in.weight", "x.lora_up.weight",
        "double_blocks.0.img_attn.norm.key_norm.scale", "vector_in.in_layer.weight", "a.lokr_w1", "a.lokr_w2",
        "model_ema.decay", "img_in.weight.absmax", "layers.0.input_layernorm.weight", "x.comfy_quant", "scaled_fp8",
        "cond_stage_model.transformer.text_model.embeddings.position_ids", "a.attn.to_q.lora_A.weight",
    ]
) | st.text(max_size=20)  # fmt: skip
SHAPES = st.lists(st.integers(-1, 1 << 20) | st.sampled_from([0, 1, 4, 320, 768, 1024, 2048, 1 << 62]), max_size=5)
DTYPES = st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "I8", "F8_E4M3", "F4", "BOOL", "NEW"]) | st.text(
    max_size=4
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "I8": 1, "F8_E4M3": 1, "BOOL": 1}


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """Mostly sound headers with true names, then damaged in one of many ways."""
    header: dict[str, Any] = {}
    offset = 0
    for name in draw(st.lists(NAMES, max_size=8)):
        dtype, shape = draw(DTYPES), draw(SHAPES)
        size = WIDTHS.get(dtype, 1)
        for side in shape:
            size *= abs(side)
        size = min(size, 4096) if draw(st.integers(0, 9)) else size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=20), st.text(max_size=20) | JSON, max_size=3))
    if header and not draw(st.integers(0, 3)):
        header[draw(st.sampled_from(sorted(header)))] = draw(JSON)
    text = json.dumps(header).encode()
    length = draw(st.sampled_from([len(text)] * 8 + [0, 1, len(text) - 1, len(text) + 1, 1 << 20, 1 << 63]))
    return struct.pack("<Q", max(0, length)) + text + b"\0" * min(offset, 1 << 16)


def forms(data: bytes, seed: int) -> Iterator[bytes]:
    """The file as it is, and cut, with bytes changed, put in or taken out."""
    yield data
    chance = random.Random(seed)
    for _ in range(FORMS - 1):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 6))):
            at = chance.randrange(len(changed) + 1)
            how = chance.randrange(5)
            if how == 0:
                del changed[at:]
            elif how == 1:
                del changed[at : at + chance.choice((1, 8, 100))]
            elif how == 2:
                changed[at:at] = chance.randbytes(chance.choice((1, 4, 12)))
            elif at < len(changed):
                changed[at] = chance.choice((0, 255, changed[at] ^ (1 << chance.randrange(8)), chance.randrange(256)))
        yield bytes(changed)


SEEDS = st.integers(0, 1 << 32)


@SETTINGS
@given(data=safetensors_files(), seed=SEEDS)
def test_safetensors(folder: Path, data: bytes, seed: int) -> None:
    for form in forms(data, seed):
        answered(folder / "x.safetensors", form)


class Touch:
    """What a hostile pickle does."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


TARGET = Path(tempfile.gettempdir()) / f"modelsmith-fuzz-{os.getpid()}"
OPCODES = bytes(range(256))


@st.composite
def pickles(draw: st.DrawFn) -> bytes:
    """True pickles of nested values with a payload in them, damaged; or opcodes at random."""
    if draw(st.booleans()):
        value: Any = {
            "state_dict": draw(st.dictionaries(NAMES, JSON, max_size=4)),
            "x": Touch(str(TARGET)),
            "y": draw(JSON),
        }
        return pickle.dumps(value, protocol=draw(st.integers(0, 5)))
    pieces = st.one_of(
        st.sampled_from([bytes([code]) for code in b"(0012N]})elast\x85\x86\x87Rbod\x94\x81\x92\x93Qu."]),
        st.sampled_from(
            [b"cos\nsystem\n", b"X\x02\0\0\0os", b"\x8c\x02os", b"K\x01", b"q\0", b"h\0", b"r\xff\xff\xff\xff"]
        ),
        st.binary(max_size=6),
    )
    return b"\x80" + bytes([draw(st.integers(0, 5))]) + b"".join(draw(st.lists(pieces, max_size=40)))


@SETTINGS
@given(data=pickles(), seed=SEEDS)
def test_pickles(folder: Path, data: bytes, seed: int) -> None:
    for form in forms(data, seed):
        start = time.perf_counter()
        with contextlib.suppress(PickleError):
            InertPickle(form).load()
        assert time.perf_counter() - start < SLOWEST
        answered(folder / "x.ckpt", form)
    assert not TARGET.exists()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Zip files with a pickle in them, damaged inside or outside."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        archive.writestr(draw(st.sampled_from(["a/data.pkl", "data.pkl", "b.txt"])), draw(pickles()))
        for number in range(draw(st.integers(0, 2))):
            archive.writestr(f"a/data/{number}", draw(st.binary(max_size=20)))
    return file.getvalue()


@SETTINGS
@given(data=archives(), seed=SEEDS)
def test_archives(folder: Path, data: bytes, seed: int) -> None:
    for form in forms(data, seed):
        answered(folder / "x.pt", form)
    assert not TARGET.exists()


@st.composite
def gguf_files(draw: st.DrawFn) -> bytes:
    tensors: dict[str, tuple[int, list[int]]] = {}
    for name in draw(st.lists(NAMES, max_size=5)):
        tensors[name] = (draw(st.sampled_from([0, 1, 2, 8, 12, 30])), draw(st.lists(st.integers(0, 512), max_size=4)))
    values = st.integers(0, 1 << 63) | st.text(max_size=9) | st.booleans() | st.lists(st.integers(-5, 5), max_size=4)
    scalars = draw(
        st.dictionaries(st.sampled_from(["general.architecture", "general.alignment", "x"]), values, max_size=3)
    )
    data, size = gguf_header(tensors, scalars)
    return data + b"\0" * min(size, 1 << 14)


@SETTINGS
@given(data=gguf_files(), seed=SEEDS)
def test_gguf(folder: Path, data: bytes, seed: int) -> None:
    for form in forms(data, seed):
        answered(folder / "x.gguf", form)
