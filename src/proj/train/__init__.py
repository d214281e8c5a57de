"""Training, evaluation and export: the only layer that imports torch."""
