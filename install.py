"""Nothing to install: Modelsmith runs on what every webui already has."""
