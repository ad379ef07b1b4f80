"""What a controller's patience is made of; tests have less of it."""

from dataclasses import dataclass

_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Times in seconds."""

    #: Between two looks at what runs.
    look_s: float = 1.0
    #: A host that takes longer to say how far it is has nothing to say this time.
    progress_s: float = 1.0
    #: For changing something of a session that runs.
    steer_s: float = 5.0
    #: For an agent to be started and to answer.
    host_s: float = 120.0
    #: For one try to put right what an attempt left, the operator's cleanup included.
    settle_s: float = 300.0
    #: Between two tries: the first wait, doubled up to the second.
    settle_wait_s: tuple[float, float] = (1.0, 30.0)
    #: Then it is left to the operator, and to the next controller.
    settle_tries: int = 40
    #: What a migration that runs is slowed down to while it is paused: slower, links would be taken for stalled.
    paused_bytes_s: int = 100_000
    #: What the weight of a guest that does not converge is multiplied by.
    weight_factor: int = 4

    def settle_delay_s(self, tries: int) -> float:
        """How long to wait after so many tries in vain (1 and more)."""
        first, most = self.settle_wait_s
        return min(most, first * 2.0 ** min(tries - 1, 30))
