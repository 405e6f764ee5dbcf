"""Puts the views together into the tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modelsmith_webui.host import Host
from modelsmith_webui.page_token import PAGE_TOKEN
from modelsmith_webui.tab.compat import listen, part_of_a_page
from modelsmith_webui.tab.convert_view import ConvertView
from modelsmith_webui.tab.empty import EmptyNotice
from modelsmith_webui.tab.history_view import HistoryView
from modelsmith_webui.tab.html import notice, tag
from modelsmith_webui.tab.inspect_view import InspectView
from modelsmith_webui.tab.library_view import LibraryView
from modelsmith_webui.tab.lora_view import LoraView
from modelsmith_webui.tab.merge_view import MergeView
from modelsmith_webui.tab.probe_view import ProbeView
from modelsmith_webui.tab.report_links import ReportLinks, WaysTo
from modelsmith_webui.tab.texts import Texts, short_code
from modelsmith_webui.tab.vae_view import VaeView


def _page(host: Host, merge_inputs: int) -> str:
    """What the script in the page needs to know; shown to nobody."""
    data: dict[str, object] = {"data_token": PAGE_TOKEN, "data_host": host.name, "data_merge_inputs": merge_inputs}
    data["data_language"] = short_code(host.language())
    return tag("div", "", "ms-page", hidden="hidden", **data)


def add_views(host: Host, blocks: gr.Blocks) -> None:
    """Add the tab's views to ``blocks``, which is being built."""
    tr = Texts(host.language)
    why_off = getattr(host, "notice", None)
    if why_off is not None:
        gr.HTML(notice("warning", why_off(tr)), elem_id="modelsmith_host_notice", elem_classes=["ms-above"])
    empty = EmptyNotice(host, tr)
    empty.build()
    inspect, merge = InspectView(host, tr), MergeView(host, tr)
    with gr.Tabs(elem_id="modelsmith_views") as views:
        with gr.Tab("Inspect", id="inspect", elem_id="modelsmith_view_inspect"):
            inspect.build()
            ProbeView(host, tr).build()
            links = ReportLinks()
            links.build()
        with gr.Tab("Merge", id="merge", elem_id="modelsmith_view_merge"):
            merge.build()
        with gr.Tab("Convert", id="convert", elem_id="modelsmith_view_convert") as convert_tab:
            convert = ConvertView(host, tr)
            convert.build()
        with gr.Tab("VAE", id="vae", elem_id="modelsmith_view_vae") as vae_tab:
            vae = VaeView(host, tr)
            vae.build()
        with gr.Tab("LoRA", id="lora", elem_id="modelsmith_view_lora") as lora_tab:
            lora = LoraView(host, tr)
            lora.build()
        with gr.Tab("Library", id="library", elem_id="modelsmith_view_library") as library_tab:
            library = LibraryView(host, tr, inspect)
            library.build()
        with gr.Tab("History", id="history", elem_id="modelsmith_view_history") as history_tab:
            history = HistoryView(host, tr)
            history.build()
    library.connect(library_tab, views)
    history.connect(history_tab, views, merge.filled, merge.fill)
    convert.connect(convert_tab)
    vae.connect(vae_tab)
    lora.connect(lora_tab)
    links.connect(inspect.file, views, WaysTo(merge, convert, vae, lora))
    # A page that is loaded anew offers the files that are there now, not those of the start.
    listen(blocks.load, inspect.offer, [], [inspect.file])
    offers = [(inspect.offers, [inspect.file, inspect.other]), (merge.slots.offers, merge.slots.lists)]
    empty.connect(blocks.load, [inspect.refresh, merge.slots.refresh, library.refresh], offers)
    merge.connect_load(blocks.load)
    # The task's id comes before the fields.
    gr.HTML(_page(host, 1 + len(merge.inputs)), elem_id="modelsmith_page")


def build_tab(host: Host, **options: Any) -> gr.Blocks:
    """The whole page of the standalone app. ``options`` go to gr.Blocks."""
    with gr.Blocks(analytics_enabled=False, **options) as blocks:
        add_views(host, blocks)
    return blocks


def build_part(host: Host) -> gr.Blocks:
    """The tab for ``on_ui_tabs``: to be rendered into the webui's page, none by itself."""
    blocks = gr.Blocks(analytics_enabled=False)
    with part_of_a_page(blocks):
        add_views(host, blocks)
    return blocks
