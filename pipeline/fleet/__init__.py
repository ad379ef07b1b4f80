"""Fleets of migrations: spec, journal, the agents on the hosts and the controller that drives them."""
