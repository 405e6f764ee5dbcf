"""What the host and the user know of a VAE beside its file: said once for the tab and the API."""

from __future__ import annotations

import hashlib

from modelsmith.vae.families import KNOWN_FILES, Hints
from modelsmith_webui.host import Host, ModelFile


def hints(host: Host, file: ModelFile, said: str | None) -> Hints:
    """The family that the user names, and the hash where the host knows it or the size is that of a published VAE."""
    return Hints(said=said or None, sha256=host.cached_sha256(file) or _published_hash(file))


def _published_hash(file: ModelFile) -> str | None:
    """Reading 335 MB is worth it only where the size says that it may be one of those that are known."""
    digest = hashlib.sha256()
    try:
        if file.path.stat().st_size not in {known.size for known in KNOWN_FILES.values()}:
            return None
        with file.path.open("rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    except OSError:
        return None  # reading the header gives the reason
    return digest.hexdigest()
