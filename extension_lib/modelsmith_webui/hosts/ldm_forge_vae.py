"""reForge and Classic: the VAE. They resolve it as AUTOMATIC1111 does; only how it is loaded again differs."""

from __future__ import annotations

import inspect
import threading
from typing import Any

from modelsmith_webui.hosts.a1111_vae import A1111Vae


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
