"""The data plane: guest memory in, frames out, guest memory back; and what programs use: `Fleet`, `migrate`.

Imports run one way: cli -> api -> fleet -> qemu, memory.image -> shard -> wire, codecs, memory.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Fleet, SubmittedFleet, migrate

__version__ = "0.1.0"
__all__ = ["Fleet", "SubmittedFleet", "__version__", "migrate"]


def __getattr__(name: str) -> Any:
    # Every module of ours imports this one first: what programs use is imported when it is asked for.
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
