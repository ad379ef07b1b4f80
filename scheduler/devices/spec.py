"""A device declared in YAML: what it is, how fast, how it fails, and what the scheduler makes of it.

    apiVersion: kuaka/v1
    kind: EmulatedDevice
    metadata: {name: iaa-small}
    spec:
      kind: iaa                       # iaa, dsa or qat
      socket: 0                       # of the host's CPU sockets
      size: 128                       # entries of the shared work queue
      threshold: 128                  # entries that we may fill; null: all
      criticalSlots: 16               # of these, kept for CRITICAL
      engines: 2                      # parallel servers
      operations:                     # on one engine; bytes are those of the uncompressed side
        compress: {fixedNs: 500, nsPerByte: 0.495}
      pool: {leaseMs: 20, bulkFloorPercent: 10}
      faults: {pageFaultsPerMillion: 0, faultNs: 9000, seed: 1}
      schedule:
        - {atSeconds: 5, stallMs: 200}
        - {atSeconds: 9, disableMs: 1000}
      shares:                         # what migrations of these names get here
        - {name: db-1, weight: 4, reservationPercent: 10, capPercent: 50}

An unknown field is an error and nothing is coerced from another type. Everything that one field can have wrong is
refused here; what several fields must keep among each other is refused in `_checked`. `spec_file` says it in one line.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from scheduler.core.events import PoolSettings
from scheduler.core.units import NS_PER_S, AcceleratorKind
from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Operation
from scheduler.devices.emulated.queue import QueueSettings
from scheduler.devices.emulated.schedule import PER_MILLION, Disturbance, DisturbanceKind

MAX_SLOTS = 65_536
MAX_ENGINES = 1024
MAX_ITEMS = 1000
#: Of what is not the critical reserve.
MAX_RESERVED_PERCENT = 80
_NS_PER_MS = 1_000_000
_DAY_MS = 24 * 3600 * 1000
#: Only what has a default there is taken from it.
_DEFAULTS = PoolSettings("any", "any", AcceleratorKind.IAA, slots=64, critical_slots=0, engines=1)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Milliseconds = Annotated[float, Field(gt=0, le=_DAY_MS)]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, alias_generator=to_camel, validate_by_name=True
    )


class OperationSpec(_Model):
    """One operation on one engine."""

    fixed_ns: Annotated[int, Field(ge=0, le=10**9)] = 0
    ns_per_byte: Annotated[float, Field(ge=0.001, le=10**6)]

    def cost(self) -> OperationCost:
        """The same in integers."""
        return OperationCost(self.fixed_ns, round(self.ns_per_byte * 1000))


class PoolSpec(_Model):
    """How the scheduler deals with the pool; the defaults are `PoolSettings`'."""

    lease_ms: Milliseconds = _DEFAULTS.lease_ns / _NS_PER_MS
    critical_lease_ms: Milliseconds = _DEFAULTS.critical_lease_ns / _NS_PER_MS
    horizon_ms: Milliseconds = _DEFAULTS.horizon_ns / _NS_PER_MS
    least_window: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = _DEFAULTS.least_window
    ttl_ms: Milliseconds = _DEFAULTS.ttl_ns / _NS_PER_MS
    critical_ttl_ms: Milliseconds = _DEFAULTS.critical_ttl_ns / _NS_PER_MS
    drain_ms: Annotated[float, Field(ge=0, le=_DAY_MS)] = _DEFAULTS.drain_ns / _NS_PER_MS
    clock_ppm: Annotated[int, Field(ge=0, lt=100_000)] = _DEFAULTS.clock_ppm
    bulk_floor_percent: Percent = _DEFAULTS.bulk_floor / 10
    background_floor_percent: Percent = _DEFAULTS.background_floor / 10


class FaultSpec(_Model):
    """Descriptors that meet memory which is not there."""

    page_faults_per_million: Annotated[int, Field(ge=0, le=PER_MILLION)] = 0
    #: Engine time that such a descriptor takes.
    fault_ns: Annotated[int, Field(ge=1, le=10**9)] = 9000
    seed: Annotated[int, Field(ge=0)] = 1


class DisturbanceSpec(_Model):
    """One stall, or one disabled time, counted from the start of the device."""

    at_seconds: Annotated[float, Field(ge=0, le=_DAY_MS)]
    stall_ms: Milliseconds | None = None
    disable_ms: Milliseconds | None = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if (self.stall_ms is None) == (self.disable_ms is None):
            raise ValueError("says neither or both of stallMs and disableMs: give one")
        return self

    def disturbance(self) -> Disturbance:
        """The same in nanoseconds."""
        at_ns = round(self.at_seconds * NS_PER_S)
        if self.stall_ms is not None:
            return Disturbance(DisturbanceKind.STALL, at_ns, _ns(self.stall_ms))
        return Disturbance(DisturbanceKind.DISABLE, at_ns, _ns(self.disable_ms or 0))


class ShareSpec(_Model):
    """A migration's weight on this pool, and the least and most of it, in percent of the pool's work."""

    name: Name
    weight: Annotated[int, Field(ge=1, le=10**6)] = 1
    reservation_percent: Percent = 0
    cap_percent: Annotated[float, Field(gt=0, le=100)] | None = None


class DeviceSpec(_Model):
    """The device."""

    kind: Literal["dsa", "iaa", "qat"]
    socket: Annotated[int, Field(ge=0, le=255)] = 0
    size: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    threshold: Annotated[int, Field(ge=1, le=MAX_SLOTS)] | None = None
    critical_slots: Annotated[int, Field(ge=0, le=MAX_SLOTS)] = 0
    engines: Annotated[int, Field(ge=1, le=MAX_ENGINES)]
    operations: Annotated[dict[Literal["compress", "decompress", "zero-scan"], OperationSpec], Field(min_length=1)]
    pool: PoolSpec = PoolSpec()
    faults: FaultSpec = FaultSpec()
    schedule: Annotated[tuple[DisturbanceSpec, ...], Field(strict=False, max_length=MAX_ITEMS)] = ()
    shares: Annotated[tuple[ShareSpec, ...], Field(strict=False, max_length=MAX_ITEMS)] = ()

    @property
    def slots(self) -> int:
        """Entries that submissions may fill."""
        return self.size if self.threshold is None else min(self.size, self.threshold)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.threshold is not None and self.threshold > self.size:
            raise ValueError(f"threshold {self.threshold} is above size {self.size}: lower it")
        if self.critical_slots >= self.slots:
            raise ValueError(f"criticalSlots {self.critical_slots} leave none of {self.slots} slots: lower them")
        general = self.slots - self.critical_slots
        if self.pool.least_window > general:
            raise ValueError(
                f"pool.leastWindow {self.pool.least_window} is above the {general} general slots: lower it"
            )
        floors = self.pool.bulk_floor_percent + self.pool.background_floor_percent
        if floors > 100:
            raise ValueError(
                f"pool.bulkFloorPercent and pool.backgroundFloorPercent add up to {floors:g} %: lower them"
            )
        if self.pool.lease_ms > self.pool.horizon_ms:
            raise ValueError(f"pool.leaseMs {self.pool.lease_ms:g} is above pool.horizonMs: lower it")
        self._check_shares(general)
        return self

    def _check_shares(self, general: int) -> None:
        names = [share.name for share in self.shares]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"shares: {name} is there twice: keep one")
        for share in self.shares:
            if share.cap_percent is not None and share.cap_percent < share.reservation_percent:
                raise ValueError(f"shares: {share.name}: reservationPercent is above its capPercent: lower it")
        reserved = sum(share.reservation_percent for share in self.shares)
        most = MAX_RESERVED_PERCENT * general / self.slots
        if reserved > most:
            holders = ", ".join(share.name for share in self.shares if share.reservation_percent)
            raise ValueError(
                f"shares: reservations of {reserved:g} % ({holders[:200]}) are beyond capacity: at most {most:g} %, "
                f"which is {MAX_RESERVED_PERCENT} % of what is not the critical reserve"
            )


class Metadata(_Model):
    """What the device is called."""

    name: Name


class EmulatedDeviceSpec(_Model):
    """A device file."""

    api_version: Literal["kuaka/v1"]
    kind: Literal["EmulatedDevice"]
    metadata: Metadata
    spec: DeviceSpec

    @property
    def accelerator(self) -> AcceleratorKind:
        """What it pretends to be."""
        return AcceleratorKind(self.spec.kind)

    def cost(self) -> CostModel:
        """What its operations cost."""
        operations = self.spec.operations.items()
        return CostModel({Operation[name.upper().replace("-", "_")]: each.cost() for name, each in operations})

    def queue_settings(self) -> QueueSettings:
        """As the emulating process takes it."""
        return QueueSettings(self.spec.slots, self.spec.engines, self.cost(), self.spec.faults.fault_ns)

    def disturbances(self) -> tuple[Disturbance, ...]:
        """What is going to happen to it."""
        return tuple(each.disturbance() for each in self.spec.schedule)

    def pool_settings(self, host: str) -> PoolSettings:
        """The pool that it is on `host`."""
        spec, pool = self.spec, self.spec.pool
        return PoolSettings(
            pool=f"{host}/{spec.kind}/{spec.socket}",
            host=host,
            kind=self.accelerator,
            slots=spec.slots,
            critical_slots=spec.critical_slots,
            engines=spec.engines,
            lease_ns=_ns(pool.lease_ms),
            critical_lease_ns=_ns(pool.critical_lease_ms),
            horizon_ns=_ns(pool.horizon_ms),
            least_window=pool.least_window,
            ttl_ns=_ns(pool.ttl_ms),
            critical_ttl_ns=_ns(pool.critical_ttl_ms),
            drain_ns=_ns(pool.drain_ms),
            clock_ppm=pool.clock_ppm,
            bulk_floor=round(pool.bulk_floor_percent * 10),
            background_floor=round(pool.background_floor_percent * 10),
        )

    def share_of(self, name: str) -> tuple[int, int, int]:
        """Weight, reservation and cap (0: none) of the migration called `name`; the latter in device-ns per second."""
        capacity_ns_s = self.spec.engines * NS_PER_S
        for share in self.spec.shares:
            if share.name == name:
                return (
                    share.weight,
                    round(share.reservation_percent * capacity_ns_s / 100),
                    round((share.cap_percent or 0) * capacity_ns_s / 100),
                )
        return 1, 0, 0


def _ns(milliseconds: float) -> int:
    return round(milliseconds * _NS_PER_MS)
