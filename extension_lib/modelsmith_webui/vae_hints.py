"""What the host and the user know of a VAE beside its file, and what is remembered of it: one store for tab and API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.vae.families import Hints, fingerprint, published_hash
from modelsmith.vae.health import Measurement, values_print
from modelsmith.vae.layout import VaeFile, find_vae
from modelsmith.vae.memory import VaeMemory
from modelsmith_webui.host import Host, ModelFile

if TYPE_CHECKING:
    from modelsmith.vae.fix import FixResult

_MEMORIES: dict[Path, VaeMemory] = {}


def memory(host: Host) -> VaeMemory:
    """The webui's own memory where it chooses VAEs, else one in the data folder of the same form and name."""
    from modelsmith_webui.hosts.vae_choice import MEMORY_FILE

    keeper: Any = getattr(host, "vae", None)
    if keeper is not None:
        return keeper.judge.memory
    path = host.data_folder() / MEMORY_FILE
    return _MEMORIES.setdefault(path, VaeMemory(path))


def hints(host: Host, file: ModelFile, said: str | None) -> Hints:
    """The family that the user names or has named before, and the hash where the host knows it or it is worth it.

    It is worth it where the size is that of a published VAE.
    """
    word = said or remembered_word(host, file)
    told = None if word else memory(host).told()
    return Hints(said=word or None, told=told, sha256=host.cached_sha256(file) or published_hash(file.path))


def remembered_word(host: Host, file: ModelFile) -> str | None:
    """What a person has said of this VAE before; None also for a file without one."""
    try:
        return memory(host).said(fingerprint(find_vae(read_header(file.path))))
    except BadFileError:
        return None


def remember_word(host: Host, file: ModelFile, said: str | None) -> None:
    """Remember a person's word on a VAE, or forget it. Raises BadFileError for a file without one."""
    memory(host).say(fingerprint(find_vae(read_header(file.path))), said or None)


def remember_measured(host: Host, vae: VaeFile, found: Measurement) -> None:
    """Remember what a run has shown, for the automatic choice. Raises BadFileError where the VAE cannot be read."""
    memory(host).note_measured(values_print(vae), found.overflows, found.peak.value)


def remember_cure(host: Host, file: ModelFile, result: FixResult) -> None:
    """Remember what a cure has shown of the VAE that it began with. Raises BadFileError where it cannot be read."""
    remember_measured(host, find_vae(read_header(file.path)), result.before)


def measured(host: Host, vae: VaeFile) -> bool | None:
    """Whether this VAE was seen to overflow in fp16; None where it was never run. Raises BadFileError."""
    known = memory(host)
    return known.measured(values_print(vae)) if known.any_measured else None
