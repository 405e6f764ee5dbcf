"""The Modelsmith tab: one page for every host and for both gradio versions; :mod:`.ui` puts it together."""
