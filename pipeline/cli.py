"""The `kuaka` command. Thin: it parses, calls, and turns every error into one line and its exit code.

Results go to stdout, progress and everything else to stderr. Exit codes: `pipeline.errors.ExitCode`.
"""

import os
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.errors import ExitCode, KuakaError, UsageError
from pipeline.logs import set_up_logs
from pipeline.output import Output

app = typer.Typer(
    name="kuaka",
    help="Live migration of whole fleets of virtual machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class JsonOutput(StrEnum):
    """How what is not of a fleet is printed."""

    TABLE = "table"
    JSON = "json"


gateway_app = typer.Typer(help="Gateways that stand alone, behind any `migrate unix:PATH`.", no_args_is_help=True)
app.add_typer(gateway_app, name="gateway")
devices_app = typer.Typer(help="Intel accelerators of this host.", no_args_is_help=True)
app.add_typer(devices_app, name="devices")

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Print results as a table, as JSON or as YAML.")]
JsonOption = Annotated[JsonOutput, typer.Option("--output", "-o", help="Print results as a table or as JSON.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster to use; without it $RAY_ADDRESS, or a local one that is started."),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, max=64, help="Worker processes per host.")]
ChannelsOption = Annotated[int, typer.Option("--channels", help="Multifd channels, as both QEMUs have them.")]
TlsCaOption = Annotated[Path | None, typer.Option("--tls-ca", help="CA of both hosts' certificates (PEM).")]
TlsCertificateOption = Annotated[Path | None, typer.Option("--tls-cert", help="This host's certificate (PEM).")]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="The certificate's private key (PEM).")]
PlainOption = Annotated[bool, typer.Option("--plain", help="Let guest memory leave this machine without TLS.")]
ClusterOption = Annotated[str, typer.Option("--address", help="The Ray cluster: HOST:PORT, or auto.")]
FleetArgument = Annotated[str, typer.Argument(help="The fleet's id.")]
VmOption = Annotated[str | None, typer.Option("--vm", help="One machine of it; all without it.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Serve one migration after the other.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Live migration of whole fleets of virtual machines."""
    if version:
        typer.echo(f"kuaka {__version__}")
        raise typer.Exit


@app.command()
def migrate(
    spec: Annotated[Path, typer.Argument(help="Spec file (YAML).")],
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
    workers: WorkersOption = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and move nothing.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Hand SPEC to the cluster's controller, and wait for nothing.")
    ] = False,
    fleet: Annotated[
        str | None,
        typer.Option(
            "--id", help="The fleet's id at the controller; the spec's name without it. The same is not begun again."
        ),
    ] = None,
) -> None:
    """Migrate every virtual machine of SPEC.

    On a cluster (--address, $RAY_ADDRESS) the controller there does it and this command waits: Ctrl-C leaves the fleet
    running, SIGTERM cancels it. Without one a cluster is started on this machine, and Ctrl-C cancels.
    """
    if dry_run:
        from pipeline.plan_command import run_plan

        raise typer.Exit(run_plan(spec, output, workers))
    if detach:
        from pipeline.fleet_commands import submit

        if address is None:
            raise UsageError("--detach: name the cluster that goes on with it: --address HOST:PORT, or auto")
        submit(spec, fleet, address, workers)
        return
    # Imported here: Ray takes 0.3 s, which `kuaka --help` should not.
    from pipeline.api import Fleet, cluster_address
    from pipeline.api import migrate as run

    there = cluster_address(address)
    if there is not None:
        from pipeline.fleet_commands import migrate as migrate_there

        raise typer.Exit(migrate_there(spec, fleet, there, workers, output))
    if fleet is not None:
        raise UsageError("--id: a fleet has one at a cluster's controller: name the cluster by --address HOST:PORT")
    from pipeline.say import say
    from pipeline.show import Progress, show_results

    loaded = Fleet.load(spec)
    with Progress() as progress:
        finished = run(loaded, workers=workers, on_progress=progress.update, say=say)
    code = show_results(finished, output)
    _end(code, abandoned=finished.abandoned)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="Spec file (YAML); it travels with the job.")],
    address: Annotated[
        str,
        typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="Ray's job server: http://HOST:8265."),
    ],
    job: Annotated[
        str | None, typer.Option("--id", help="The job's id; the spec's name without it. The same is not begun again.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what the job says, and end as it does. Ctrl-C leaves it running.")
    ] = False,
    output: OutputOption = Output.TABLE,
    workers: WorkersOption = 2,
) -> None:
    """Run `kuaka migrate SPEC` inside a cluster, as a Ray job. $RAY_AUTH_TOKEN is the cluster's token."""
    from pipeline.jobs_command import run_submit

    raise typer.Exit(run_submit(spec, address, job, workers=workers, follow_it=follow, output=output))


@app.command()
def attach(fleet: FleetArgument, output: OutputOption = Output.TABLE, address: ClusterOption = "auto") -> None:
    """Wait for a fleet that was submitted, and print its results. Ctrl-C leaves it running."""
    from pipeline.fleet_commands import attach as wait

    raise typer.Exit(wait(fleet, address, output))


@app.command()
def status(
    fleet: Annotated[str | None, typer.Argument(help="The fleet's id; all fleets without it.")] = None,
    output: OutputOption = Output.TABLE,
    address: ClusterOption = "auto",
    watch: Annotated[bool, typer.Option("--watch", help="Go on until it has finished.")] = False,
) -> None:
    """Say where the migrations of submitted fleets are, and what they wait for."""
    from pipeline.fleet_commands import show_status

    raise typer.Exit(show_status(fleet, address, output, watch=watch))


@app.command()
def top(
    fleet: Annotated[str | None, typer.Argument(help="The fleet's id; all fleets without it.")] = None,
    address: ClusterOption = "auto",
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="So many machines; what fits without it.")] = None,
) -> None:
    """Watch fleets as they move: a bar for each machine, what is under way first. Ctrl-C ends the watching alone."""
    from pipeline.fleet_commands import show_status

    raise typer.Exit(show_status(fleet, address, Output.TABLE, watch=True, rows=rows))


@app.command()
def report(
    fleet: Annotated[str | None, typer.Argument(help="The fleet's id.")] = None,
    results: Annotated[
        Path | None, typer.Option("--from", help="JSON that migrate, attach or demo printed; - for stdin.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page's file; - for stdout.")] = Path(
        "report.html"
    ),
    address: ClusterOption = "auto",
    journal: Annotated[
        bool, typer.Option("--journal", help="Read the journal in the state directory; needs no cluster.")
    ] = False,
) -> None:
    """Write what a fleet came to as one HTML page with pictures, for a browser or a phone."""
    from pipeline.report_command import run_report

    raise typer.Exit(run_report(fleet, results, output, address, from_journal=journal))


@app.command()
def events(fleet: FleetArgument, output: OutputOption = Output.TABLE, address: ClusterOption = "auto") -> None:
    """Print what happened to a fleet, oldest first; as JSON one object per line, as YAML one list."""
    from pipeline.fleet_commands import show_events

    raise typer.Exit(show_events(fleet, address, output))


@app.command()
def cancel(fleet: FleetArgument, vm: VmOption = None, address: ClusterOption = "auto") -> None:
    """Give up a fleet, or one machine of it. Guests stay where they are; behind the hand-over it is too late."""
    from pipeline.fleet_commands import steer

    what = vm or f"all of fleet {fleet}"
    raise typer.Exit(steer(fleet, address, lambda submitted: submitted.cancel(vm), f"{what} is to be cancelled"))


@app.command()
def pause(fleet: FleetArgument, vm: VmOption = None, address: ClusterOption = "auto") -> None:
    """Hold back what has not begun, and slow down what runs."""
    from pipeline.fleet_commands import steer

    what = vm or f"all of fleet {fleet}"
    raise typer.Exit(steer(fleet, address, lambda submitted: submitted.pause(vm), f"{what} is to be held back"))


@app.command()
def resume(fleet: FleetArgument, vm: VmOption = None, address: ClusterOption = "auto") -> None:
    """Take a pause back."""
    from pipeline.fleet_commands import steer

    what = vm or f"all of fleet {fleet}"
    raise typer.Exit(steer(fleet, address, lambda submitted: submitted.resume(vm), f"{what} is to go on"))


@app.command("set-bandwidth")
def set_bandwidth(
    fleet: FleetArgument,
    rate: Annotated[
        str, typer.Argument(help="Wire bytes per second of each migration, e.g. 50MB; none lifts the cap.")
    ],
    address: ClusterOption = "auto",
) -> None:
    """Cap a fleet's migrations anew, those that run too."""
    from pipeline.fleet_commands import bandwidth, steer

    cap = bandwidth(rate)
    done = f"each migration of fleet {fleet} is to send {rate if cap else 'as fast as it can'}"
    raise typer.Exit(steer(fleet, address, lambda submitted: submitted.set_bandwidth(cap), done))


@app.command()
def plan(
    spec: Annotated[Path, typer.Argument(help="Spec file (YAML).")],
    output: OutputOption = Output.TABLE,
    workers: WorkersOption = 2,
) -> None:
    """Say who would go when, how long it takes, and who cannot go and why. Nothing is moved.

    Exit code 0: all can go; 3: some cannot; 4: none can.
    """
    from pipeline.plan_command import run_plan

    raise typer.Exit(run_plan(spec, output, workers))


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs (docs/fleet.schema.json)."""
    from pipeline.fleet.spec_schema import spec_schema

    sys.stdout.write(spec_schema())


@app.command()
def demo(
    vms: Annotated[int, typer.Option(help="How many guests.")] = 2,
    memory: Annotated[str, typer.Option(help="Memory of each guest, whole MiB.")] = "256MiB",
    channels: Annotated[int, typer.Option(help="Multifd channels of each guest.")] = 4,
    codec: Annotated[
        str | None,
        typer.Option(help="none, lz4, zstd, deflate, qat or qat-raw; zstd, and deflate with --devices, without it."),
    ] = None,
    level: Annotated[int | None, typer.Option(help="The codec's level; its own default without it.")] = None,
    source_qemu: Annotated[str | None, typer.Option(help="A version (7.2, 10.0) or a path.")] = None,
    destination_qemu: Annotated[str | None, typer.Option(help="A version (7.2, 10.0) or a path.")] = None,
    zero_page_detection: Annotated[
        str | None, typer.Option(help="The source QEMU's own: none, legacy or multifd (QEMU 9.0 or newer).")
    ] = None,
    normal_page_ratio: Annotated[float, typer.Option(help="Percentage of pages that are not zero.")] = 60,
    dirty_rate: Annotated[
        str | None, typer.Option(help="What each guest writes per second; 20MiB, or less so that all write 40MiB.")
    ] = None,
    link_rate: Annotated[
        str | None, typer.Option(help="Wire bytes per second of all guests together, e.g. 50MB; no cap without it.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Shares of the accelerators, one for each guest: 1,1,2,4.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="auto, or a file of accelerators that both hosts emulate (examples/devices).")
    ] = None,
    workers: WorkersOption = 2,
    output: OutputOption = Output.TABLE,
) -> None:
    """Boot guests of ours, migrate them live at the same time, and compare all of their memory."""
    from pipeline.demo.options import parse_options
    from pipeline.fleet.own_devices import own_devices

    options = parse_options(
        vms=vms,
        memory=memory,
        channels=channels,
        codec=codec,
        level=level,
        source_qemu=source_qemu,
        destination_qemu=destination_qemu,
        zero_page_detection=zero_page_detection,
        normal_page_ratio=normal_page_ratio,
        dirty_rate=dirty_rate,
        link_rate=link_rate,
        workers=workers,
        weights=weights,
        devices=devices,
        has_accelerators=lambda: bool(own_devices("here")),
    )
    from pipeline.demo.run import run_demo
    from pipeline.say import say
    from pipeline.show import Progress, show_results

    with Progress() as progress:
        finished = run_demo(options, say, progress.update)
    code = show_results(finished, output)
    _end(code, abandoned=finished.abandoned)


@gateway_app.command("source")
def gateway_source(
    socket: Annotated[Path, typer.Option("--socket", help="Where the source QEMU migrates to: unix:PATH.")],
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the destination's gateway.")],
    channels: ChannelsOption = 2,
    codec: Annotated[str, typer.Option("--codec", help="none, lz4, zstd, deflate, qat or qat-raw.")] = "zstd",
    level: Annotated[int | None, typer.Option("--level", help="The codec's level; its own default without it.")] = None,
    downtime_limit: Annotated[
        int,
        typer.Option("--downtime-limit", help="The source QEMU's downtime-limit in ms; a tenth may hide here."),
    ] = 300,
    socket_user: Annotated[
        str | None, typer.Option("--socket-user", help="User the source QEMU runs as: the socket becomes theirs.")
    ] = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    plain: PlainOption = False,
    workers: WorkersOption = 2,
    keep: KeepOption = False,
    output: JsonOption = JsonOutput.TABLE,
) -> None:
    """Take a source QEMU's migration to the gateway at its destination."""
    from pipeline.gateway_command import GatewayOptions, run_source

    options = GatewayOptions(channels, tls_ca, tls_cert, tls_key, plain, workers, keep, output is JsonOutput.JSON)
    raise typer.Exit(
        run_source(
            options,
            socket_path=socket,
            to=to,
            codec=codec,
            level=level,
            downtime_limit_ms=downtime_limit,
            socket_user=socket_user,
        )
    )


@gateway_app.command("destination")
def gateway_destination(
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT for source gateways; port 0 picks a free one.")],
    qemu: Annotated[Path, typer.Option("--qemu", help="The destination QEMU's migrate-incoming unix:PATH.")],
    channels: ChannelsOption = 2,
    qemu_version: Annotated[
        str, typer.Option("--qemu-version", help="The destination QEMU's; from 9.0 on zero pages cost it nothing.")
    ] = "7.2",
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    plain: PlainOption = False,
    workers: WorkersOption = 2,
    keep: KeepOption = False,
    output: JsonOption = JsonOutput.TABLE,
) -> None:
    """Take a source gateway's migration into a destination QEMU, which should have been started with -S."""
    from pipeline.gateway_command import GatewayOptions, run_destination

    options = GatewayOptions(channels, tls_ca, tls_cert, tls_key, plain, workers, keep, output is JsonOutput.JSON)
    raise typer.Exit(run_destination(options, listen=listen, qemu=qemu, qemu_version=qemu_version))


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="hundred-vms, calibration, ...; docs/simulator.md lists them.")],
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="cpu, fifo, retry or kuaka; may be repeated; all without it.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same run.")] = 1,
    sweep: Annotated[bool, typer.Option("--sweep/--no-sweep", help="All points, or the contended case alone.")] = True,
    timeline: Annotated[Path | None, typer.Option("--timeline", help="Write the time line here, as SVG.")] = None,
    output: JsonOption = JsonOutput.TABLE,
) -> None:
    """Simulate a fleet's migration: who stalls, how long it takes, and what is in the way."""
    from pipeline.simulate_command import run_simulation

    as_json = output is JsonOutput.JSON
    code = run_simulation(scenario, policy or [], seed=seed, sweep=sweep, timeline=timeline, as_json=as_json)
    raise typer.Exit(code)


@devices_app.command("list")
def devices_list(output: JsonOption = JsonOutput.TABLE) -> None:
    """List DSA, IAA and QAT devices and their queues; exit code 0 where there are none, too."""
    from pipeline.devices_command import run_list
    from scheduler.devices.discovery import Roots

    raise typer.Exit(run_list(Roots(), as_json=output is JsonOutput.JSON))


@devices_app.command("check")
def devices_check(
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="dsa, iaa or qat; may be repeated; any of them without it.")
    ] = None,
    output: JsonOption = JsonOutput.TABLE,
) -> None:
    """Say what keeps accelerators from use, or makes them worth less, with a remedy for each.

    Exit code 0: usable by this process (each kind that was named, or at least one); 1: not.
    """
    from pipeline.devices_command import run_check
    from scheduler.devices.discovery import Roots

    raise typer.Exit(run_check(Roots(), kind or [], as_json=output is JsonOutput.JSON))


@devices_app.command("plan")
def devices_plan(
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="dsa or iaa; may be repeated; both without it.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", help="Plan for N devices of each kind, instead of those of this host.")
    ] = None,
    critical_entries: Annotated[
        int | None, typer.Option("--critical-entries", help="Of DSA's critical queue; 16 without it.")
    ] = None,
    bulk_entries: Annotated[
        int | None, typer.Option("--bulk-entries", help="Of DSA's bulk queue; all others without it.")
    ] = None,
    group: Annotated[str, typer.Option("--group", help="The group that the queues are opened to.")] = "kuaka",
    config: Annotated[
        Path | None, typer.Option("--config", help="Write accel-config's file here; to stdout without it.")
    ] = None,
    udev_rule: Annotated[Path | None, typer.Option("--udev-rule", help="Write the udev rule here.")] = None,
) -> None:
    """Write how DSA and IAA devices should be set up, for `accel-config load-config`. Nothing is changed."""
    from pipeline.devices_command import PlanOptions, run_plan
    from scheduler.devices.discovery import Roots

    options = PlanOptions(
        kinds=tuple(kind or ()),
        devices=devices,
        critical_entries=critical_entries,
        bulk_entries=bulk_entries,
        group=group,
        config=config,
        udev_rule=udev_rule,
    )
    raise typer.Exit(run_plan(Roots(), options))


@app.command()
def certs(
    directory: Annotated[Path, typer.Argument(help="Where the files go; it is made 0700.")],
    host: Annotated[list[str], typer.Option("--host", help="NAME, ADDRESS or NAME=ADDRESS,...; once per host.")],
    days: Annotated[int, typer.Option("--days", help="How long the hosts' certificates are valid.")] = 30,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these hosts' files, never the CA's.")] = False,
) -> None:
    """Make a test CA and a certificate for each host, for links between them."""
    from pipeline.wire.certs import make_certificates

    for path in make_certificates(directory, host, days, overwrite=overwrite):
        typer.echo(path)


def main() -> None:
    """Entry point: every `KuakaError` is one line on stderr and an exit code."""
    set_up_logs("command", socket.gethostname())
    try:
        app()
    except KuakaError as error:
        # One line for each problem; a rejected spec may have many.
        sys.stderr.writelines(f"kuaka: {line}\n" for line in str(error).splitlines())
        _end(error.exit_code, abandoned=False)
    except KeyboardInterrupt:
        # Everything has been put away by now, and a Ray that was interrupted half-way may hang or crash at its end.
        _end(ExitCode.INTERRUPTED, abandoned=True)


def _end(code: ExitCode, *, abandoned: bool) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if abandoned:
        # Something does not answer any more, and Ray's own end would wait for it.
        os._exit(code)
    sys.exit(code)
