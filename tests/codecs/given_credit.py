"""Credit as a test gives it, in the place of the scheduler's."""


class Hold:
    """A hold that knows whether it was given back."""

    def __init__(self, credit: "Credit", slots: int) -> None:
        self.slots = slots
        self._credit = credit

    def current(self) -> bool:
        return self._credit.current

    def release(self, used_ns: int) -> None:
        self._credit.held -= self.slots
        self._credit.used_ns += used_ns


class Credit:
    """As much credit as the test says; counts what the codec reports."""

    def __init__(self, window: int = 1024, *, device: bool = True, current: bool = True) -> None:
        self.window, self.device, self.current = window, device, current
        self.held = self.used_ns = self.accelerator_pages = self.cpu_pages = 0
        self.busy_retries = self.asked_ns = 0
        self.timeouts_ns: list[int] = []
        #: Holds it will still give.
        self.pieces = 1_000_000

    def prefers_device(self) -> bool:
        return self.device

    def acquire(self, slots: int, cost_ns: int, timeout_ns: int) -> Hold | None:
        self.timeouts_ns.append(timeout_ns)
        assert slots > 0
        assert self.held == 0, "a hold was not given back"
        if not self.window or not self.pieces:
            return None
        self.pieces -= 1
        self.held = min(slots, self.window)
        return Hold(self, self.held)

    def count(
        self,
        *,
        asked_ns: int = 0,
        busy_retries: int = 0,
        accelerator_pages: int = 0,
        cpu_pages: int = 0,
        accelerator_cpu_ns: int = 0,
        cpu_ns: int = 0,
    ) -> None:
        assert min(accelerator_cpu_ns, cpu_ns) >= 0
        self.asked_ns += asked_ns
        self.busy_retries += busy_retries
        self.accelerator_pages += accelerator_pages
        self.cpu_pages += cpu_pages
