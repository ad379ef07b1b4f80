"""How long a lease may be in use, as its holder and as the scheduler count it.

    request sent ......... granted ................ holder stops ...... scheduler frees the slots
         |-- t_send           |-- t_grant                |                        |
         +-------- ttl, by the holder's clock -----------+                        |
                              +-- ttl (1 + r) / (1 - r) + drain (1 + r), by ours -+

The holder counts from when it *sent* the report that earned the lease, so its end is never later than ours: t_send is
before t_grant, and two clocks that are off by at most r in rate measure the same time within (1 + r) / (1 - r). Only
durations cross the connection, so no clock need be right. What the holder submitted in time leaves the device within
`drain`. Expiry is decided here alone; a lease that has ended is never revived, whoever asks (a holder that was asleep
for longer may come back at any time).
"""

_MILLION = 1_000_000


def life_ns(ttl_ns: int, clock_ppm: int, drain_ns: int) -> int:
    """How long after its grant a lease of `ttl_ns` may have descriptors in the device, by the scheduler's clock."""
    use_ns = -(-ttl_ns * (_MILLION + clock_ppm) // (_MILLION - clock_ppm))
    # A clock shows whole nanoseconds: one more, for what had passed of the one that was shown at the grant.
    return use_ns + -(-drain_ns * (_MILLION + clock_ppm) // _MILLION) + 1
