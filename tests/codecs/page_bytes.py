"""Pages to encode: from what does not shrink at all to what shrinks to nothing, the same in every run."""

import numpy as np

from pipeline.memory.pages import PAGE_BYTES

#: How much each kind shrinks, from not at all to almost entirely.
TEXTURES = ("random", "mixed", "text", "ramp", "constant")


def textured(texture: str, pages: int, seed: int = 1) -> bytes:
    """`pages` pages of one texture."""
    size, rng = pages * PAGE_BYTES, np.random.default_rng(seed)
    if texture == "random":
        return rng.bytes(size)
    if texture == "mixed":
        return (rng.bytes(PAGE_BYTES // 2) + bytes(PAGE_BYTES // 2)) * pages
    if texture == "text":
        words = [b"page ", b"of ", b"guest ", b"memory ", b"0x%x " % seed, b"\n"]
        return b"".join(words[index] for index in rng.integers(0, len(words), size // 2))[:size]
    if texture == "ramp":
        return (np.arange(size // 4, dtype=np.uint32) // 3).tobytes()
    return b"\xa5" * size
