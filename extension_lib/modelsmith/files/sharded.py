"""Models of more than one file: an index with its shards, or a diffusers folder with a part in each sub-folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo, read_header

_MAX_JSON = 100_000_000
_MAX_SHARDS = 2_000
_REMEDY = "Download or copy the whole folder again"
PARTS = (
    "unet",
    "transformer",
    "prior",
    "decoder",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "controlnet",
    "image_encoder",
)
"""Sub-folders of a diffusers model that hold weights; their tensors are named ``PART.NAME`` in the header."""
_FACTS = ("prediction_type", "rescale_betas_zero_snr", "scaling_factor", "_class_name", "in_channels", "shift")


def read_sharded(path: Path) -> FileHeader:
    """Read ``*.index.json`` or a folder as one model. Raises BadFileError for a missing shard or tensor."""
    if not path.is_dir():
        return _read_index(path)
    if any((path / part).is_dir() for part in PARTS):
        return _read_folder(path)
    found = _weights_of(path)
    if found is None:
        raise BadFileError(path, "the folder holds no model", "Choose a model file or a diffusers folder")
    several = sum(file.suffix in (".safetensors", ".bin", ".gguf") for file in path.iterdir())
    if several > 1 and not found.name.endswith(".index.json") and not (path / "config.json").exists():
        raise BadFileError(path, f"the folder holds {several} models and is none itself", "Choose one of its models")
    header = read_header(found)
    config = _facts(path / "config.json", "diffusers.config")
    tensors = {name: info._replace(file=info.file or header.path) for name, info in header.tensors.items()}
    metadata = {**header.metadata, **config}
    return FileHeader(path, "sharded", header.size, tensors, metadata, {}, header.globals, header.forbidden)


def _weights_of(folder: Path) -> Path | None:
    """The weights of one part: an index before a single file, safetensors before pickles, plain before a variant."""
    for pattern in ("*.safetensors.index.json", "*.index.json", "*.safetensors", "*.bin", "*.gguf"):
        found = sorted(folder.glob(pattern), key=lambda file: (len(file.name), file.name))
        if found:
            return found[0]
    return None


def _read_json(path: Path) -> dict[str, object]:
    if path.stat().st_size > _MAX_JSON:
        raise BadFileError(path, "it is larger than any index", _REMEDY)
    try:
        found: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadFileError(path, f"it is not valid JSON ({str(error)[:100]})", _REMEDY) from None
    if not isinstance(found, dict):
        raise BadFileError(path, "it is not a JSON object", _REMEDY)
    return cast("dict[str, object]", found)


def _read_index(path: Path) -> FileHeader:
    weights = _read_json(path).get("weight_map")
    if not isinstance(weights, dict):
        raise BadFileError(path, "it has no weight_map", _REMEDY)
    names = cast("dict[str, object]", weights)
    files = sorted({str(file) for file in names.values()})
    if len(files) > _MAX_SHARDS:
        raise BadFileError(path, "it names more shards than any model has", _REMEDY)
    shards: dict[str, FileHeader] = {}
    for file in files:
        if Path(file).name != file or file in ("", ".", "..") or file.endswith(".index.json"):
            raise BadFileError(path, f"it names the shard {file[:100]!r}, which is no file of its folder", _REMEDY)
        shards[file] = read_header(path.parent / file)
    tensors: dict[str, TensorInfo] = {}
    for name, file in names.items():
        info = shards[str(file)].tensors.get(name)
        if info is None:
            raise BadFileError(path, f"tensor {name[:200]!r} is not in its shard {str(file)[:100]!r}", _REMEDY)
        tensors[name] = info._replace(file=info.file or path.parent / str(file))
    metadata: dict[str, str] = {}
    for shard in shards.values():
        metadata.update(shard.metadata)
    size = sum(shard.size for shard in shards.values())
    forbidden = tuple(name for shard in shards.values() for name in shard.forbidden)
    asked = tuple(name for shard in shards.values() for name in shard.globals)
    return FileHeader(path, "sharded", size, tensors, metadata, {}, asked, forbidden)


def _read_folder(path: Path) -> FileHeader:
    tensors: dict[str, TensorInfo] = {}
    metadata = _facts(path / "scheduler" / "scheduler_config.json", "diffusers.scheduler")
    asked: list[str] = []
    forbidden: list[str] = []
    size = 0
    for part in PARTS:
        found = _weights_of(path / part)
        if found is None:
            continue
        header = read_header(found)
        size += header.size
        asked.extend(header.globals)
        forbidden.extend(header.forbidden)
        metadata.update(_facts(path / part / "config.json", f"diffusers.{part}"))
        for name, info in header.tensors.items():
            tensors[f"{part}.{name}"] = info._replace(file=info.file or header.path)
    return FileHeader(path, "sharded", size, tensors, metadata, {}, tuple(asked), tuple(forbidden))


def _facts(path: Path, prefix: str) -> dict[str, str]:
    """The few values of a diffusers config that say what the model is; a missing or broken config says nothing."""
    try:
        found = _read_json(path)
    except (OSError, BadFileError):
        return {}
    return {f"{prefix}.{name}": str(found[name]) for name in _FACTS if name in found}
