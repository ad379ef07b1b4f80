"""`make demo WATCH=1`: a demo that a Prometheus watches, and the report of what came of it.

`python -m dashboards.watch [OPTIONS OF kuaka demo]`. Prometheus listens on loopback and reads what the exporters of
this demo announce, with the rules of `dashboards/rules`. It goes on when the demo has ended, for as long as somebody
sits at the terminal; its data are gone with it. The report stays.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dashboards.draw import draw
from dashboards.prometheus import Prometheus, free_port, program
from pipeline.errors import ExitCode, KuakaError
from pipeline.fleet.directories import STATE_VARIABLE
from pipeline.say import say

_ROOT = Path(__file__).parent.parent
REPORT = _ROOT / ".cache" / "demo" / "report.html"
PORT = 9090
#: Long enough to be watched, and with something to share.
USUAL = (
    *("--vms", "4", "--weights", "1,1,2,4", "--devices", str(_ROOT / "examples/devices/iaa-small.yaml")),
    *("--link-rate", "40MB", "--dirty-rate", "2MiB"),
)
_KUAKA = str(Path(sys.executable).with_name("kuaka"))
#: What Prometheus' own page shows first.
_SHOWN = (
    "sum by (vm) (rate(kuaka_vmi_migration_wire_bytes_total[5s]))",
    "kuaka_pool_leased_slots",
    "sum by (host, by) (rate(kuaka_host_coded_pages_total[5s]))",
)
SEEN = "count(count by (fleet, vm) (count_over_time(kuaka_vmi_migration_wire_bytes_total[15m])))"


def configuration(state: Path) -> dict[str, Any]:
    """That of Prometheus: every exporter of kuaka whose state directory that is, once a second."""
    announced = {"files": [f"{state}/metrics/*.json"], "refresh_interval": "1s"}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
        "rule_files": [f"{_ROOT}/dashboards/rules/*.yaml"],
        "scrape_configs": [{"job_name": "kuaka", "file_sd_configs": [announced]}],
    }


def graphs(address: str) -> str:
    """The address of Prometheus' page with curves of the demo on it."""
    fields: dict[str, str] = {}
    for number, expr in enumerate(_SHOWN):
        fields |= {f"g{number}.expr": expr, f"g{number}.tab": "0", f"g{number}.range_input": "2m"}
    return f"http://{address}/graph?{urllib.parse.urlencode(fields)}"


def watch(options: Sequence[str], report: Path = REPORT, port: int = PORT) -> int:
    """Run the demo; what it ends with. Raises `KuakaError`."""
    prometheus_program = program()
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kuaka-watch-") as directory:
        state, data, results = (Path(directory) / name for name in ("state", "prometheus", "results.json"))
        data.mkdir()
        chosen = free_port(port)
        if chosen != port:
            say(f"port {port} is taken: Prometheus listens on {chosen}")
        with Prometheus(prometheus_program, data, configuration(state), chosen) as prometheus:
            say(f"Prometheus: {graphs(prometheus.address)}")
            began_s = time.time()
            code = _demo(options or USUAL, state, results)
            _report(results, report)
            panels = report.with_name("panels.svg")
            draw(prometheus, began_s, time.time(), panels)
            say(f"panels of the dashboards: {panels.as_uri()}")
            found = prometheus.ask("query", query=SEEN)["result"]
            seen = int(found[0]["value"][1]) if found else 0
            say(f"Prometheus has seen {seen} {'machine' if seen == 1 else 'machines'} move")
            if sys.stdin.isatty():
                say("Prometheus goes on until you press Enter")
                sys.stdin.readline()
    return code


def _demo(options: Sequence[str], state: Path, results: Path) -> int:
    environment = {**os.environ, STATE_VARIABLE: str(state)}
    with results.open("wb") as output:
        # A session of its own: it is told once of a Ctrl-C, by us, and then has the time that it needs.
        demo = subprocess.Popen(
            [_KUAKA, "demo", *options, "-o", "json"], stdout=output, env=environment, start_new_session=True
        )
    try:
        return demo.wait()
    except KeyboardInterrupt:
        demo.send_signal(signal.SIGINT)
        return demo.wait()


def _report(results: Path, report: Path) -> None:
    if not results.stat().st_size:
        # The demo has said why.
        return
    if subprocess.run([_KUAKA, "report", "--from", str(results), "-o", str(report)], check=False).returncode == 0:
        say(f"in a browser: {report.as_uri()}")


def main() -> None:
    """The command."""
    # Prometheus ends with it, whoever ends it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = watch(sys.argv[1:])
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except KuakaError as error:
        say(str(error))
        code = error.exit_code
    raise SystemExit(code)


if __name__ == "__main__":
    main()
