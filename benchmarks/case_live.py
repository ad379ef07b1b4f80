"""Live migrations of a stopped guest: through both gateways, against QEMU alone; uncapped, and over a capped link.

Three socket hops and a checksum at either end against one hop: on loopback, where copying is all there is, this is
the price of the gateway at its worst. Both sides have the same guest, settings and warm destination.
"""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateways import GatewayHosts, gateway_hosts
from benchmarks.guests import guest_names, write_guest
from benchmarks.measure import GIB, Contender, Run, Summary, best, interleaved
from benchmarks.namespaces import NamespaceError, linked_places
from benchmarks.pair import PairSettings, direct, stopped_pair
from benchmarks.report import Figure, Report
from pipeline.codecs.codec import CodecId

_CODECS = {"none": (CodecId.NONE, None), "zstd": (CodecId.ZSTD, 1)}
_CHANNELS = (2, 4)
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
                    name: contender
                    for channels in _CHANNELS
                    for codec in _CODECS
                    for name, contender in _both(hosts, folder, image, codec, channels).items()
                }
                summaries = interleaved(contenders, runs)
        finally:
            image.unlink(missing_ok=True)
        case = f"live, {guest} guest"
        figures = [
            Figure(case, "none, throughput against QEMU none", _against(summaries, "none"), "x", at_least=0.6),
            Figure(case, "zstd level 1, throughput against QEMU zstd", _against(summaries, "zstd"), "x", at_least=0.7),
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
    ours = PairSettings(channels, places=hosts.places)
    peer = PairSettings(channels, codec, places=hosts.places)

    def through_gateways() -> Run:
        with stopped_pair(folder, image, ours) as pair:
            return hosts.run(pair, *_CODECS[codec])

    def alone() -> Run:
        with stopped_pair(folder, image, peer) as pair:
            return direct(peer, _PEER_PORT)(pair)

    return {f"kuaka {codec} x{channels}": through_gateways, f"QEMU {codec} x{channels}": alone}


def _against(summaries: dict[str, Summary], codec: str) -> float:
    """Our throughput over QEMU's, each with its better channel count."""
    ours, peer = (
        best(summaries, *(f"{side} {codec} x{channels}" for channels in _CHANNELS)) for side in ("kuaka", "QEMU")
    )
    return peer.wall_s / ours.wall_s
