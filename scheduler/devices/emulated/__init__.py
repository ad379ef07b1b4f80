"""Emulated devices: a process that serves a shared work queue with real bytes at a modelled speed."""
