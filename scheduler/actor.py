"""The scheduler's Ray shell: one detached actor per cluster, found by its name, and how hosts call it.

Ray starts the actor again when its process or its node dies, with nothing of what it knew; the service deals with that
by epochs, whose number is kept in the cluster's own store. Calls are made at most once by Ray and may be lost; the
ticks deal with that.
"""

import gc
import json
import logging
import os
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.experimental import internal_kv

from scheduler.client import Transport, Unreachable
from scheduler.core.machine import Scheduler
from scheduler.credit import boottime_ns
from scheduler.metrics_server import MetricsPlace, MetricsServer
from scheduler.pool_collector import ServiceFigures
from scheduler.process_collector import ProcessFigures
from scheduler.readings import Exposition
from scheduler.service import SchedulerService, ServiceStatistics
from scheduler.ticks import Tick, TickAnswer

NAMESPACE = "kuaka"
ACTOR_NAME = "scheduler"
_KV_NAMESPACE = b"kuaka"
_EPOCHS = b"scheduler/epoch/"
_TENANTS = b"scheduler/tenants"
#: A scrape waits so long for a tick to end.
_SCRAPE_TIMEOUT_S = 1.0

_log = logging.getLogger(__name__)


class ClusterEpochStore:
    """An `EpochStore` in Ray's key-value store: one key per epoch, which only one can be the first to write."""

    def load(self) -> int:
        """See `EpochStore`."""
        keys: list[bytes] = internal_kv._internal_kv_list(_EPOCHS, namespace=_KV_NAMESPACE)
        return max((int(key.removeprefix(_EPOCHS)) for key in keys), default=0)

    def compare_and_swap(self, expected: int, new: int) -> bool:
        """See `EpochStore`. Keys are never deleted: a slow starter must not find an old number free again."""
        if self.load() != expected:
            return False
        there: bool = internal_kv._internal_kv_put(
            _EPOCHS + str(new).encode(), b"claimed", overwrite=False, namespace=_KV_NAMESPACE
        )
        return not there

    def load_tenants(self) -> dict[str, int]:
        """See `EpochStore`."""
        kept: bytes | None = internal_kv._internal_kv_get(_TENANTS, namespace=_KV_NAMESPACE)
        return {} if kept is None else {str(name): int(weight) for name, weight in json.loads(kept).items()}

    def save_tenants(self, tenants: dict[str, int]) -> None:
        """See `EpochStore`."""
        internal_kv._internal_kv_put(_TENANTS, json.dumps(tenants).encode(), namespace=_KV_NAMESPACE)


class SchedulerShell(SchedulerService):
    """The service in its actor's process."""

    def __init__(self, metrics_directory: Path | None = None) -> None:
        """`metrics_directory`: where it is announced where its metrics are; None: they are not shown."""
        super().__init__(ClusterEpochStore(), Scheduler, boottime_ns)
        #: Held while anything changes, so that a scrape, which has a thread of its own, sees no half of a tick.
        self._turn = threading.Lock()
        if metrics_directory is not None:
            self._show_metrics(metrics_directory)
        # What was imported stays: a collection that walks through all of it takes as long as many ticks.
        gc.freeze()

    def set_tenant(self, tenant: str, weight: int) -> None:
        """See `SchedulerService`."""
        with self._turn:
            super().set_tenant(tenant, weight)

    def remove_tenant(self, tenant: str) -> None:
        """See `SchedulerService`."""
        with self._turn:
            super().remove_tenant(tenant)

    def tick(self, tick: Tick) -> TickAnswer:
        """See `SchedulerService`."""
        with self._turn:
            return super().tick(tick)

    def encoded_tick(self, tick: bytes) -> bytes:
        """`tick`, with both messages as bytes: Ray's own pickler takes three times as long for them."""
        return pickle.dumps(self.tick(pickle.loads(tick)), pickle.HIGHEST_PROTOCOL)

    def process(self) -> int:
        """The actor's process id."""
        return os.getpid()

    def _show_metrics(self, directory: Path) -> None:
        try:
            place = MetricsPlace.of("scheduler", socket.gethostname(), directory)
        except ValueError as error:
            _log.warning("no metrics of the scheduler: %s", error)
            return
        figures = ServiceFigures(self._snapshot)
        own = ProcessFigures("scheduler", socket.gethostname())
        MetricsServer.start(place, Exposition("scheduler", socket.gethostname(), (figures, own)).registry)

    def _snapshot(self) -> ServiceStatistics:
        if not self._turn.acquire(timeout=_SCRAPE_TIMEOUT_S):
            raise TimeoutError("the scheduler is busy")
        try:
            return self.statistics()
        finally:
            self._turn.release()


def find_or_start(metrics_directory: Path | None = None, name: str = ACTOR_NAME, **options: Any) -> Any:
    """The cluster's scheduler actor; `options` are Ray's, for where. It lives until it is killed.

    `metrics_directory`: where one that has to be started announces where its metrics are; None: it shows none.
    """
    shell: Any = ray.remote(SchedulerShell)
    return shell.options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        # Nobody looks at single calls: Ray's records of ten a second from each host are work for all, and memory.
        enable_task_events=False,
        max_restarts=-1,
        max_task_retries=0,
        **options,
    ).remote(metrics_directory)


def transport(actor: Any) -> Transport:
    """How a host's client calls it."""

    async def call(tick: Tick) -> TickAnswer:
        try:
            answer: bytes = await actor.encoded_tick.remote(pickle.dumps(tick, pickle.HIGHEST_PROTOCOL))
        except RayError as error:
            raise Unreachable(type(error).__name__) from None
        told: TickAnswer = pickle.loads(answer)
        return told

    return call
