"""One batch, worked at from both ends: the device takes pieces from the front, the thread from the back.

The device's first piece is what the split says, as far as the window goes; each later one is half of what is left then,
and none is begun that the thread would have to wait for: when what is left takes it less time than the last piece took
the device, it is the thread's. So neither waits long for the other, however the queue differs from what was predicted.
The thread pays for submissions between its own pieces, sleeps when nothing is left to take, and is woken at the end.
"""

from scheduler.simulate.device import Device
from scheduler.simulate.host import Process
from scheduler.simulate.work import Work, on_cpu, start

#: The thread looks after the device this often: after each sixteenth of a batch, 8 pages of a packet.
_THREAD_PIECE = 1 / 16
#: A smaller piece is not worth a submission.
_LEAST_PIECE = 1 / 32


class Meeting:
    """`first`: the device's first piece; `with_thread`: whether the thread works, too, or only the device."""

    def __init__(self, work: Work, device: Device, first: float, *, with_thread: bool) -> None:
        self._work = work
        self._device = device
        self._first = first
        self._with_thread = with_thread
        self._left = 1.0
        #: Submissions that the thread has to pay for.
        self._owed_ns = 0.0
        #: What the device has done.
        self.device_share = 0.0

    def run(self, *, critical: bool) -> Process:
        """Until the whole batch is done."""
        world = self._work.migration.world
        env = world.env
        cpus = self._work.host.cpus
        front = env.process(self._front(critical=critical))
        yield env.timeout(0)
        while self._with_thread and self._left > 0 and front.is_alive:
            yield from self._pay()
            piece = self._take(_THREAD_PIECE)
            if piece:
                yield from on_cpu(self._work, piece)
        yield from self._pay()
        if front.is_alive:
            since_ns = int(env.now)
            yield front
            # It spins as long as going to sleep and waking up take, and then sleeps.
            yield cpus.work(min(int(env.now) - since_ns, world.parameters.wake_ns * world.scale))
        yield from self._pay()
        if self._left > 0:
            # The device has left it, or is gone.
            yield from on_cpu(self._work, self._take(1.0))

    def _front(self, *, critical: bool) -> Process:
        env = self._work.migration.world.env
        size = self._first
        while self._left > 0:
            piece = self._take(max(_LEAST_PIECE, size))
            self._owed_ns += self._work.submit_ns * piece
            began_ns = int(env.now)
            if not (yield start(self._work, self._device, piece, critical_queue=critical)):
                self._work.migration.device_bytes -= self._work.size_bytes * piece
                self._left += piece
                return
            self.device_share += piece
            if self._with_thread and self._left * self._work.cpu_ns < int(env.now) - began_ns:
                break
            size = min(self._first, self._left / 2) if self._with_thread else self._first
        if self._work.latency_ns:
            yield env.timeout(round(self._work.latency_ns * self.device_share))

    def _take(self, piece: float) -> float:
        taken = min(piece, self._left)
        self._left = self._left - taken if self._left - taken > 1e-9 else 0.0
        return taken

    def _pay(self) -> Process:
        owed_ns, self._owed_ns = self._owed_ns, 0.0
        if owed_ns:
            yield self._work.host.cpus.work(owed_ns)
