"""How long a migration that failed waits before its next attempt.

The n-th failure waits first x 2^(n-1), at most `most`, less up to a quarter by a jitter that is the same whenever it is
asked for: migrations that failed together do not come back together, and a controller that was restarted does not
decide anew.
"""

import hashlib
from dataclasses import dataclass

_SECOND_NS = 10**9
#: Doubling more often than this has long passed every `most`.
_DOUBLINGS = 40
_JITTER_PER_MILLE = 250


@dataclass(frozen=True, slots=True)
class Backoff:
    """KubeVirt's evacuations wait 20 s after their first failure, twice as long after every other."""

    first_ns: int = 20 * _SECOND_NS
    most_ns: int = 600 * _SECOND_NS

    def wait_ns(self, failures: int, seed: str) -> int:
        """Nanoseconds to wait after so many failures (1 and more); `seed` names the migration."""
        full_ns = min(self.most_ns, self.first_ns << min(failures - 1, _DOUBLINGS))
        digest = hashlib.blake2b(f"{seed}/{failures}".encode(), digest_size=8).digest()
        jitter_per_mille = int.from_bytes(digest) % (_JITTER_PER_MILLE + 1)
        return full_ns - full_ns * jitter_per_mille // 1000
