"""Turns model files into other model files: format, precision, pruning, repair, parts, publishing, comparing."""
