"""Ray's settings that it takes from the environment, most of them when it is imported or when a raylet starts.

On loopback: a cluster that a command starts for itself is nobody else's business, so its servers listen on 127.0.0.1
only. Ray has no public switch for that on Linux (a node address of 127.0.0.1 is replaced by the machine's); the one
that its macOS build uses for the same purpose does it.
"""

import os


def prepare_environment(*, local: bool) -> None:
    """Set what Ray is to find; call it before Ray is imported. `local`: for a cluster of this command's own."""
    # A hypervisor's memory is meant to be full; the monitor would kill workers at 95 %. Its CPUs may be full, too: at
    # Ray's own niceness of 15 a worker gets a thirtieth of what a guest's QEMU gets, and a migration hardly moves.
    settings = {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    # numpy would start a thread per core in every worker for linear algebra that nobody does.
    settings["OPENBLAS_NUM_THREADS"] = "1"
    if local:
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.update(settings)
