"""An epoch store that lives as long as a test, and a clock that goes when it is told to."""


class EpochMemory:
    def __init__(self) -> None:
        self.epoch = 0
        self.tenants: dict[str, int] = {}

    def load(self) -> int:
        return self.epoch

    def compare_and_swap(self, expected: int, new: int) -> bool:
        if self.epoch != expected:
            return False
        self.epoch = new
        return True

    def load_tenants(self) -> dict[str, int]:
        return dict(self.tenants)

    def save_tenants(self, tenants: dict[str, int]) -> None:
        self.tenants = dict(tenants)


class Clock:
    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns
