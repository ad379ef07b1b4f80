"""Hidden buffering: a guest that dirties its memory, over a link capped at 50 MB/s.

QEMU takes bytes that its socket accepted for bytes that arrived; whatever waits on the way is downtime it did not
expect. So the downtime through the gateway is held against that of QEMU alone at the same cap. With more than two
channels one packet per channel is the floor, and the figures are reported without a bound.
"""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateways import GatewayHosts, gateway_hosts
from benchmarks.measure import Contender, Run, Summary, interleaved
from benchmarks.namespaces import NamespaceError, linked_places
from benchmarks.pair import PairSettings, direct, running_pair
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId
from pipeline.demo.guest import GuestParameters

_CAP_BITS_S = 400_000_000
_CAP_BURST_BYTES = 256 << 10
_DOWNTIME_LIMIT_MS = 300
_MEMORY_BYTES = 192 << 20
_DIRTY_BYTES_S = 16 << 20
_BOUND_CHANNELS = (1, 2)
_CHANNELS = (*_BOUND_CHANNELS, 4, 8)
_PEER_PORT = 7777


def run(report: Report, folder: Path, runs: int) -> None:
    """Every channel count."""
    case = "downtime at 50 MB/s, dirtying guest"
    with ExitStack() as stack:
        try:
            places = stack.enter_context(linked_places(_CAP_BITS_S, _CAP_BURST_BYTES))
        except NamespaceError as error:
            report.skip(case, str(error))
            return
        hosts = stack.enter_context(gateway_hosts(folder, places))
        contenders = {
            name: contender for channels in _CHANNELS for name, contender in _both(hosts, folder, channels).items()
        }
        summaries = interleaved(contenders, runs)
    report.add(case, summaries.values(), [_figure(case, summaries, channels) for channels in _CHANNELS])


def _both(hosts: GatewayHosts, folder: Path, channels: int) -> dict[str, Contender]:
    settings = PairSettings(channels, downtime_limit_ms=_DOWNTIME_LIMIT_MS, places=hosts.places)
    guest = GuestParameters(_MEMORY_BYTES, dirty_rate_bytes_s=_DIRTY_BYTES_S)

    def through_gateways() -> Run:
        with running_pair(folder, guest, settings) as pair:
            return hosts.run(pair, CodecId.NONE)

    def alone() -> Run:
        with running_pair(folder, guest, settings) as pair:
            return direct(settings, _PEER_PORT)(pair)

    return {f"kuaka x{channels}": through_gateways, f"QEMU x{channels}": alone}


def _figure(case: str, summaries: dict[str, Summary], channels: int) -> Figure:
    ours, peer = (summaries[f"{side} x{channels}"].downtime_ms for side in ("kuaka", "QEMU"))
    assert ours is not None
    assert peer is not None
    bound = round(1.1 * peer + 20, 1) if channels in _BOUND_CHANNELS else None
    return Figure(case, f"downtime with {channels} channels (QEMU alone: {peer:g} ms)", ours, " ms", at_most=bound)
