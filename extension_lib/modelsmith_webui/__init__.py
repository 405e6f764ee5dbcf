"""Modelsmith inside a webui or as an app of its own: host adapters, the tab, settings and the API."""
