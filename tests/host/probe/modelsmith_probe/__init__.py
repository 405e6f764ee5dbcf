"""A stand-in for a person at the webui: looks at the loaded model and at what samplers are given."""
