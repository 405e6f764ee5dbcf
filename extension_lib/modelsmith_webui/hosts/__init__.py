"""One module per host, all behind :class:`modelsmith_webui.host.Host`."""
