"""What a simulated host tells `scheduler.core.split` of a flow: the same rule as live, on the world's own figures."""

from typing import TYPE_CHECKING

from scheduler.core.split import SplitInputs, SplitState, choose, cpu_price
from scheduler.core.units import NS_PER_S, PERMILLE, AcceleratorKind
from scheduler.simulate.parameters import PACKET_PAGES, PAGE_BYTES, Operation

if TYPE_CHECKING:
    from scheduler.simulate.credit_book import CreditBook
    from scheduler.simulate.world import World

_PACKET_BYTES = PACKET_PAGES * PAGE_BYTES


def split_now(world: "World", book: "CreditBook") -> SplitState | None:
    """The split of the flow's next packets; None before the scheduler has said anything of it.

    For a guest that stands still the ticket says what there is: no wait, its slots' part of the pool, and CPU time
    counts nothing.
    """
    if book.stopped:
        ticket, settings = book.ticket, book.settings
        if ticket is None:
            return None
        share_ns_s = NS_PER_S * settings.engines * ticket.lease.window // settings.slots
        return choose(_inputs(world, book, 0, share_ns_s, 0), None)
    outlook = book.outlook
    if outlook is None:
        return None
    # What counts is what guests lose, and here they are idle. With the migrations' own threads counted in, a host that
    # only migrates turns from both to device alone, its CPUs fall idle, and it turns back: measured, 12 % slower.
    price = cpu_price(0)
    # The split is for batches that find credit; those that find none go to the CPU whatever it says. So the wait for
    # the next grant is not theirs, and the device is theirs as far as the lease's slots go: where leases take turns
    # that is more than the flow's share in the long run.
    settings = book.settings
    window = 0 if book.lease is None else book.lease.window
    slots_ns_s = NS_PER_S * settings.engines * window // (settings.slots - settings.critical_slots)
    return choose(_inputs(world, book, 0, max(outlook.share_ns_s, slots_ns_s), price), book.split)


def _inputs(world: "World", book: "CreditBook", wait_ns: int, share_ns_s: int, price_permille: int) -> SplitInputs:
    operation = _operation(book)
    work_ns_b = world.parameters.devices[book.settings.kind].work_ns_b[operation]
    cpu_ns_b, submit_ns_b = _cpu_costs(world, book, operation)
    compresses = operation is Operation.COMPRESS
    size = _size(world, book, operation)
    ratio = round(PERMILLE / world.codec.wire_ratio) if compresses else PERMILLE
    return SplitInputs(
        batch_bytes=round(size),
        wait_ns=wait_ns,
        device_bytes_s=int(share_ns_s / work_ns_b),
        cpu_bytes_s=int(book.migration.spec.channels * NS_PER_S / cpu_ns_b),
        link_bytes_s=_link_share(world, book) if compresses else 0,
        ratio_device_permille=ratio,
        ratio_cpu_permille=ratio,
        device_cpu_ns=round(size * submit_ns_b) + world.parameters.wake_ns,
        cpu_cpu_ns=round(size * cpu_ns_b),
        cpu_price_permille=price_permille,
        raw_allowed=False,
    )


def _operation(book: "CreditBook") -> Operation:
    if book.settings.kind is AcceleratorKind.DSA:
        return Operation.SCAN
    return Operation.COMPRESS if book.host is book.migration.source else Operation.DECOMPRESS


def _size(world: "World", book: "CreditBook", operation: Operation) -> float:
    """Bytes of a packet that are worked on: a zero check of live pages ends early, zero pages are not compressed."""
    live = book.migration.spec.live
    if operation is Operation.SCAN:
        return world.parameters.scan_bytes(PACKET_PAGES, live, early_exit=world.scenario.workload.early_exit)
    return max(1.0, _PACKET_BYTES * live)


def _cpu_costs(world: "World", book: "CreditBook", operation: Operation) -> tuple[float, float]:
    """CPU ns per byte of doing it, and of having it done."""
    parameters, codec = world.parameters, world.codec
    if operation is Operation.SCAN:
        size = _size(world, book, operation)
        # A host goes by what its workers measure, and scans are slower in company.
        slower = book.migration.interference(book.host) * book.host.memory.stretch
        return parameters.scan_ns_b * slower, parameters.dsa_submit_ns_packet / size
    if operation is Operation.COMPRESS:
        return codec.compress_ns_b, codec.submit_ns_b
    return codec.decompress_ns_b, codec.submit_back_ns_b


def _link_share(world: "World", book: "CreditBook") -> int:
    """Bytes of pages per second that its even share of the link carries, compressed."""
    link = book.host.link
    if link is None:
        return 0
    sharers = sum(migration.source is book.host and migration.running for migration in world.migrations)
    return int(link.capacity * NS_PER_S / max(1, sharers))
