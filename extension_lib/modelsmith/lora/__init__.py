"""LoRA files of every kind: parsed, baked into checkpoints, extracted from differences, merged with each other."""
