"""The Modelsmith tab: one page for every host and for both gradio versions."""

from modelsmith_webui.tab.ui import build_tab

__all__ = ["build_tab"]
