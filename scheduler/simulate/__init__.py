"""The discrete-event world around the scheduler's core: hosts, links, devices and migrations, at batch granularity."""
