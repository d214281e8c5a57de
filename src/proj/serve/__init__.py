"""A bundle as an HTTP API with a page: nothing here imports torch, lightning, timm or hydra."""
