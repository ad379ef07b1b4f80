"""When an attempt has taken too long: KubeVirt's two limits, by its amount of memory and by its last byte."""

from dataclasses import dataclass

_SECOND_NS = 10**9
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Timeouts:
    """None: no such limit."""

    #: completionTimeoutPerGiB; less than one GiB counts as one.
    completion_ns_per_gib: int | None = 150 * _SECOND_NS
    #: progressTimeout: so long without a byte.
    progress_ns: int | None = 150 * _SECOND_NS

    def overdue(self, *, elapsed_ns: int, silent_ns: int, memory_bytes: int) -> str | None:
        """Why an attempt is to be given up, None for one that may go on.

        `elapsed_ns` since it began, `silent_ns` since something of it was last seen to move.
        """
        if self.progress_ns is not None and silent_ns > self.progress_ns:
            return f"no byte moved for {silent_ns // _SECOND_NS} s (progressTimeout {self.progress_ns // _SECOND_NS} s)"
        if self.completion_ns_per_gib is None:
            return None
        most_ns = self.completion_ns_per_gib * max(memory_bytes, _GIB) // _GIB
        if elapsed_ns <= most_ns:
            return None
        return (
            f"not completed in {most_ns // _SECOND_NS} s"
            f" (completionTimeoutPerGiB {self.completion_ns_per_gib // _SECOND_NS} s)"
        )
