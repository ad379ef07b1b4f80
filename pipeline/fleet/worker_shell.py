"""The Ray shell of a worker: a process starts with what this imports, twice per host, so it imports what it needs."""

import gc
import os
import threading
import time
from pathlib import Path

from pipeline.worker import Worker

#: How long a worker whose agent has gone waits to be ended in order.
_LINGER_S = 3.0


class WorkerShell:
    """A worker in its actor's process; it ends the process when its agent has gone."""

    def start(self, control_path: str) -> int:
        """Serve the agent that connects to `control_path`; returns the process id."""
        # What was imported stays: a collection need not walk through it between two packets.
        gc.freeze()
        worker = Worker(Path(control_path))

        def serve() -> None:
            worker.serve_one()
            # Whoever ends a run kills its actors in order; where nobody is left to do that, this ends the process.
            time.sleep(_LINGER_S)
            os._exit(0)

        threading.Thread(target=serve, name="worker", daemon=True).start()
        return os.getpid()
