"""The data plane: guest memory in, frames out, guest memory back.

Imports run one way: cli -> fleet -> qemu, memory.image -> shard -> wire, codecs, memory.
"""

__version__ = "0.1.0"
