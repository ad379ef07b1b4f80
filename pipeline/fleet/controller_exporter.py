"""A controller's metrics. A scrape does not ask it: a watch keeps what is shown (see `fleet_collector`)."""

import asyncio
import logging
import socket
import time
from pathlib import Path

from pipeline.fleet.exporter import Exporter, metrics_place
from pipeline.fleet.fleet_collector import FleetWatch, Watched

_RETRY_S = 5.0

_log = logging.getLogger(__name__)


def controller_exporter(controller: Watched, directory: Path | None = None) -> Exporter:
    """The exporter of a controller; to be called on its loop."""
    watch = FleetWatch(controller, time.time_ns)
    place = metrics_place("controller", socket.gethostname(), directory)
    return Exporter(place, (watch, watch.tally), (_keep_watching(watch),))


async def _keep_watching(watch: FleetWatch) -> None:
    """A journal that cannot be read is the controller's business; here it only means no news."""
    begun = False
    while True:
        try:
            if not begun:
                await watch.begin()
                begun = True
            await watch.run()
        except Exception as error:
            _log.info("metrics of the controller: %s", error)
        await asyncio.sleep(_RETRY_S)
