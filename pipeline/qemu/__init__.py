"""QEMU's side of things: multifd packets, QMP, and the gateways."""
