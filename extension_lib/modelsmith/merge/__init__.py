"""Merging of model files."""
