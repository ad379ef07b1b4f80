"""Frames (bytes <-> batches) and the links that carry them between hosts."""
