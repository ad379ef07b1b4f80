"""What dashboards are called in links: they never change."""

FLEET = "kuaka-fleet"
MIGRATION = "kuaka-migration"
ACCELERATORS = "kuaka-accelerators"
HOST = "kuaka-host"
