"""How a flow's next batch is shared between the device, its own CPU threads and the wire as it is (raw).

For a batch of B bytes, with

    W    wait for the device            Rd, Rc  bytes/s the flow may expect of the device, and of its CPU threads
    Bn   its share of the link          qd, qc  raw bytes per wire byte on either path; raw: 1
    Cd, Cc  CPU time of the caller      lambda  what a nanosecond of CPU counts, in nanoseconds of delay

work and link overlap, so a way k of doing the batch costs

    J_k = max(T_k, B / (q_k Bn)) + lambda C_k       T_device = W + B/Rd,  T_cpu = B/Rc,  T_raw = 0

A fourth way uses device and CPU at once, so that both end together: W + x B/Rd = (1 - x) B/Rc, hence

    x* = clamp((1/Rc - W/B) / (1/Rd + 1/Rc), 0, 1)

Its CPU time is x* Cd + (1 - x*) Cc; on the link it is judged by the poorer of the two ratios. The cheapest way is
taken; of equals the one with more device, then more CPU.

Two rules come before cost. The device is out if handing it the work takes the caller as much CPU as doing it
(Cd >= Cc), or if the flow has no share of it. Raw is out unless allowed.

More wait never means more device. W only enters J_device and J_both, and neither falls as W grows (both: the end
W + x* B/Rd rises, x* falls, Cd < Cc), so once CPU or raw is cheaper it stays so. Between device and both: write
a = B/Rd, b = B/Rc, D = Cc - Cd. While the link hides the device's time, device is no dearer. After that J_device grows
by 1 per ns of W, J_both by at most (b + lambda D)/(a + b), which is below 1 if lambda D < a; if it is not, device is no
dearer at any W. So once both is cheaper it stays so. (Judged by its average ratio, J_both could fall as W grows: with
less of the work in the device that compresses worse.) Likewise a higher price of CPU never means less device, unless
raw takes over. Costs are therefore compared exactly; only x* is rounded, down.

A flow keeps its split until another is better by more than 20 % twice in a row: predictions are noisy and a switch
costs the device's pipeline.

QEMU has no such rule: a page whose submission is refused three times more is compressed by its thread. With a
probability p of refusal x = 1 - p^4 falls out, and no less than 1 - p, since retries follow each other at once. For a
flow that has the device to itself that ends near x* for W = 0 (published: 3.36 GB/s by device alone and 4.22 GB/s with
fallback, so x = 0.80), because a device kept full and CPUs kept busy end together. With company p depends on who
submits hardest, not on weights; every refused attempt is CPU time; and CPUs work though the host needs them elsewhere.
"""

from dataclasses import dataclass

from scheduler.core.units import NS_PER_S, PERMILLE

#: A host this busy has CPU to spare no more.
_BUSY_PERMILLE = 800
#: While it has, a nanosecond of CPU is worth a tenth of one of delay: enough to prefer the device among equals.
_IDLE_PRICE = 100
#: A saturated host takes four times the CPU time out of somebody else's guest.
_SATURATED_PRICE = 4000
#: A better split has to be so much better, so many ticks in a row.
_GAIN_PERMILLE = 200
_TICKS = 2


@dataclass(frozen=True, slots=True)
class SplitInputs:
    """What the split depends on. Raises ValueError for a size or rate that makes no sense."""

    batch_bytes: int
    #: Predicted wait for the device (`effects.Outlook.wait_ns`).
    wait_ns: int
    #: Rate at which the flow's share of the device does its work; 0: it has none.
    device_bytes_s: int
    #: Rate at which its own threads do it.
    cpu_bytes_s: int
    #: Its share of the link; 0: the link is no limit.
    link_bytes_s: int
    #: Raw bytes per wire byte, permille.
    ratio_device_permille: int
    ratio_cpu_permille: int
    #: CPU time of the caller per batch, on either path.
    device_cpu_ns: int
    cpu_cpu_ns: int
    #: What a nanosecond of CPU counts: `cpu_price`; 0 for CRITICAL, whose guest stands still.
    cpu_price_permille: int
    raw_allowed: bool

    def __post_init__(self) -> None:
        if min(self.batch_bytes, self.cpu_bytes_s, self.ratio_device_permille, self.ratio_cpu_permille) <= 0:
            raise ValueError(f"a batch, the CPU's rate and ratios are positive: {self}")
        amounts = (self.wait_ns, self.device_bytes_s, self.link_bytes_s, self.device_cpu_ns, self.cpu_cpu_ns)
        if min(*amounts, self.cpu_price_permille) < 0:
            raise ValueError(f"a wait, rate, time or price is negative: {self}")


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of a flow's work, permille; they sum to 1000. Raises ValueError if they do not."""

    device_permille: int
    cpu_permille: int
    raw_permille: int

    def __post_init__(self) -> None:
        shares = (self.device_permille, self.cpu_permille, self.raw_permille)
        if min(shares) < 0 or sum(shares) != PERMILLE:
            raise ValueError(f"shares of work are not parts of 1000: {shares}")


@dataclass(frozen=True, slots=True)
class SplitState:
    """The split in force, and for how many ticks in a row another one has been better by enough."""

    split: Split
    better_ticks: int = 0


DEVICE_ONLY = Split(PERMILLE, 0, 0)
CPU_ONLY = Split(0, PERMILLE, 0)
RAW_ONLY = Split(0, 0, PERMILLE)


def cpu_price(host_busy_permille: int) -> int:
    """What a ns of CPU counts, permille of a ns of delay: 100 while the host is at most 80 % busy, 4000 at 100 %."""
    over = min(max(host_busy_permille, _BUSY_PERMILLE), PERMILLE) - _BUSY_PERMILLE
    return _IDLE_PRICE + over * (_SATURATED_PRICE - _IDLE_PRICE) // (PERMILLE - _BUSY_PERMILLE)


def choose(inputs: SplitInputs, before: SplitState | None) -> SplitState:
    """The split for the next tick; without one before, or if that is no longer allowed, the best at once."""
    best, best_cost = cheapest(inputs)
    if before is None or not allowed(inputs, before.split):
        return SplitState(best)
    kept_cost = cost(inputs, before.split)
    if best_cost * PERMILLE >= kept_cost * (PERMILLE - _GAIN_PERMILLE):
        return SplitState(before.split)
    if before.better_ticks + 1 < _TICKS:
        return SplitState(before.split, before.better_ticks + 1)
    return SplitState(best)


def cheapest(inputs: SplitInputs) -> tuple[Split, int]:
    """The split that costs least, with its cost (thousandths of a ns), without regard to what was before."""
    ways = [(CPU_ONLY, cost(inputs, CPU_ONLY))]
    if allowed(inputs, DEVICE_ONLY):
        ways = [(DEVICE_ONLY, cost(inputs, DEVICE_ONLY)), *_both(inputs), *ways]
    if allowed(inputs, RAW_ONLY):
        ways.append((RAW_ONLY, cost(inputs, RAW_ONLY)))
    return min(ways, key=lambda way: way[1])


def allowed(inputs: SplitInputs, split: Split) -> bool:
    """Whether a split keeps the rules that come before cost."""
    device = inputs.device_bytes_s > 0 and inputs.device_cpu_ns < inputs.cpu_cpu_ns
    return (device or not split.device_permille) and (inputs.raw_allowed or not split.raw_permille)


def cost(inputs: SplitInputs, split: Split) -> int:
    """J of a split, in thousandths of a nanosecond."""
    return _cost(inputs, split.device_permille, split.cpu_permille, split.raw_permille)


def _both(inputs: SplitInputs) -> list[tuple[Split, int]]:
    """Device and CPU ending together, if the device is there before the CPU alone would be done."""
    device_ns, cpu_ns = _time_ns(inputs, inputs.device_bytes_s), _time_ns(inputs, inputs.cpu_bytes_s)
    device_part, cpu_part = cpu_ns - inputs.wait_ns, device_ns + inputs.wait_ns
    permille = device_part * PERMILLE // (device_part + cpu_part)
    if permille <= 0:
        return []
    return [(Split(permille, PERMILLE - permille, 0), _cost(inputs, device_part, cpu_part, 0))]


def _cost(inputs: SplitInputs, device: int, cpu: int, raw: int) -> int:
    """J when the batch is shared device : cpu : raw; any whole numbers, so that x* is not rounded before it counts."""
    parts = device + cpu + raw
    done = cpu * _time_ns(inputs, inputs.cpu_bytes_s)
    if device:
        done = max(done, parts * inputs.wait_ns + device * _time_ns(inputs, inputs.device_bytes_s))
    coded = max(
        _link_ns(inputs, inputs.ratio_device_permille) if device else 0,
        _link_ns(inputs, inputs.ratio_cpu_permille) if cpu else 0,
    )
    sent = (device + cpu) * coded + raw * _link_ns(inputs, PERMILLE)
    caller = device * inputs.device_cpu_ns + cpu * inputs.cpu_cpu_ns
    return (PERMILLE * max(done, sent) + inputs.cpu_price_permille * caller) // parts


def _time_ns(inputs: SplitInputs, bytes_s: int) -> int:
    """The whole batch at a rate, rounded up."""
    return -(-inputs.batch_bytes * NS_PER_S // bytes_s)


def _link_ns(inputs: SplitInputs, ratio_permille: int) -> int:
    if not inputs.link_bytes_s:
        return 0
    return -(-inputs.batch_bytes * PERMILLE * NS_PER_S // (ratio_permille * inputs.link_bytes_s))
