"""Live migrations of a stopped guest: through both gateways, against QEMU alone; uncapped, and over a capped link.

Three socket hops and a checksum at either end against one hop: on loopback, where copying is all there is, this is
the price of the gateway at its worst. Both sides have the same guest, settings and warm destination. A blind relay in
the gateways' place tells how much of that price is the three hops themselves.
"""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateways import GatewayHosts, gateway_hosts
from benchmarks.guests import guest_names, write_guest
from benchmarks.measure import GIB, Contender, Run, Summary, best, interleaved
from benchmarks.namespaces import NamespaceError, linked_places
from benchmarks.pair import PairSettings, direct, stopped_pair
from benchmarks.relay import run_relayed
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId

_CODECS = {"none": (CodecId.NONE, None), "zstd": (CodecId.ZSTD, 1)}
_CHANNELS = (2, 4)
#: Uncapped a gateway may do better with more channels than QEMU alone.
_MORE_CHANNELS = 8
_GATEWAY_CHANNELS = (*_CHANNELS, _MORE_CHANNELS)
_PEER_PORT = 7777
_CAP_BITS_S = 2_500_000_000
_CAP_BURST_BYTES = 1 << 20


def run(report: Report, folder: Path, runs: int) -> None:
    """Uncapped loopback, every guest there is."""
    for guest in guest_names():
        image = folder / f"{guest}.ram"
        try:
            write_guest(guest, image, GIB)
            with gateway_hosts(folder) as hosts:
                contenders = {
                    f"kuaka none x{_MORE_CHANNELS}": _ours(hosts, folder, image, "none", _MORE_CHANNELS),
                    **{f"relay x{channels}": _relayed(folder, image, channels) for channels in _GATEWAY_CHANNELS},
                }
                for channels in _CHANNELS:
                    for codec in _CODECS:
                        contenders |= _both(hosts, folder, image, codec, channels)
                summaries = interleaved(contenders, runs)
        finally:
            image.unlink(missing_ok=True)
        case = f"live, {guest} guest"
        figures = [
            Figure(case, "none, throughput against QEMU none", _against(summaries, "none"), "x", at_least=0.6),
            Figure(case, "zstd level 1, throughput against QEMU zstd", _against(summaries, "zstd"), "x", at_least=0.7),
            *_limits(case, summaries),
        ]
        report.add(case, summaries.values(), figures)


def run_capped(report: Report, folder: Path, runs: int) -> None:
    """Two hosts joined by a link of 2.5 Gbit/s."""
    case = "live at 2.5 Gbit/s, demo guest"
    image = folder / "demo.ram"
    with ExitStack() as stack:
        try:
            places = stack.enter_context(linked_places(_CAP_BITS_S, _CAP_BURST_BYTES))
        except NamespaceError as error:
            report.skip(case, str(error))
            return
        stack.callback(image.unlink, missing_ok=True)
        write_guest("demo", image, GIB)
        hosts = stack.enter_context(gateway_hosts(folder, places))
        contenders = {
            name: contender
            for channels in _CHANNELS
            for name, contender in _both(hosts, folder, image, "none", channels).items()
        }
        summaries = interleaved(contenders, runs)
    figure = Figure(case, "none, throughput against QEMU none", _against(summaries, "none"), "x", at_least=0.95)
    report.add(case, summaries.values(), [figure])


def _both(hosts: GatewayHosts, folder: Path, image: Path, codec: str, channels: int) -> dict[str, Contender]:
    peer = PairSettings(channels, codec, places=hosts.places)

    def alone() -> Run:
        with stopped_pair(folder, image, peer) as pair:
            return direct(peer, _PEER_PORT)(pair)

    return {
        f"kuaka {codec} x{channels}": _ours(hosts, folder, image, codec, channels),
        f"QEMU {codec} x{channels}": alone,
    }


def _ours(hosts: GatewayHosts, folder: Path, image: Path, codec: str, channels: int) -> Contender:
    def through_gateways() -> Run:
        with stopped_pair(folder, image, PairSettings(channels, places=hosts.places)) as pair:
            return hosts.run(pair, *_CODECS[codec])

    return through_gateways


def _relayed(folder: Path, image: Path, channels: int) -> Contender:
    def through_relays() -> Run:
        with stopped_pair(folder, image, PairSettings(channels)) as pair:
            return run_relayed(pair, folder)

    return through_relays


def _against(summaries: dict[str, Summary], codec: str) -> float:
    """Our throughput over QEMU's, each with its better channel count."""
    return _quickest(summaries, f"QEMU {codec}").wall_s / _quickest(summaries, f"kuaka {codec}").wall_s


def _limits(case: str, summaries: dict[str, Summary]) -> list[Figure]:
    """What the three hops alone leave of QEMU's throughput, and what kuaka makes of that."""
    relay, ours, peer = (_quickest(summaries, side).wall_s for side in ("relay", "kuaka none", "QEMU none"))
    return [
        Figure(case, "none, throughput against a blind relay", relay / ours, "x"),
        Figure(case, "blind relay, throughput against QEMU none", peer / relay, "x"),
    ]


def _quickest(summaries: dict[str, Summary], contender: str) -> Summary:
    """Of a contender's channel counts the one with the least wall time."""
    return best(summaries, *(name for name in summaries if name.startswith(f"{contender} x")))
