"""Accelerators as their users see them, and the emulated ones; which of them may be used when is `scheduler.core`'s."""
