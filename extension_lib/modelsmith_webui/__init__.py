"""Modelsmith inside a webui or as an app of its own: host adapters, the tab, settings and the API."""

from modelsmith.japanese import add_table

add_table("modelsmith_webui.sentences")
