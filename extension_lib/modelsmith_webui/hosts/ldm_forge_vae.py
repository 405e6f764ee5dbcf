"""reForge and Classic: the VAE. They resolve it as AUTOMATIC1111 does; only how it is loaded again differs.

reForge forgets to keep the checkpoint's own VAE: every picture begins with ``SdModelData.set_sd_model``, which takes
the checkpoint in memory down as the one whose VAE is kept. ``store_base_vae`` then has nothing left to do when another
VAE comes, and going back to the checkpoint's own loads nothing, but says that it did.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from modelsmith_webui.hosts.a1111_vae import A1111Vae


def keep_own_vae(original: Callable[[Any], Any], model: Any) -> Any:
    """What ``store_base_vae`` is to do: keep the VAE of the checkpoint wherever it is in memory and not kept."""
    from modules import sd_vae

    if sd_vae.base_vae is None and not sd_vae.loaded_vae_file:
        sd_vae.checkpoint_info = None
    return original(model)


class LdmForgeVae(A1111Vae):
    """The VAE part of the adapter for reForge and Classic."""

    def reload(self, model: Any) -> None:
        """Load the VAE that is due, in the thread in which these webuis move models."""
        from modules import sd_vae
        from modules_forge import main_thread

        def load() -> None:
            # Classic's takes no model: it has only one.
            takes_model = bool(inspect.signature(sd_vae.reload_vae_weights).parameters)
            sd_vae.reload_vae_weights(*((model,) if takes_model else ()))

        if threading.current_thread() is threading.main_thread():
            load()
        else:
            main_thread.run_and_wait_result(load)
