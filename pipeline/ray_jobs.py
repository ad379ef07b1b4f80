"""Ray's own client for its job server: what it takes from the environment, and its errors in one line.

Ray would have $RAY_ADDRESS win over the address that was asked for, and sends a token only if it is told that there is
one.
"""

import logging
import os

from pipeline.errors import KuakaError, UsageError
from pipeline.submission import JobClient

_TOKEN_SOURCES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")


def connect(address: str) -> JobClient:
    """A client for the job server at the URL, where somebody listens. Raises `UsageError` or `KuakaError`."""
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    if any(os.environ.get(name) for name in _TOKEN_SOURCES):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Only now: Ray reads its environment when it is imported.
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client: JobClient = JobSubmissionClient(address)
    except AuthenticationError:
        raise UsageError(
            f"the job server at {address} wants a token, and not the one that there is: set RAY_AUTH_MODE=token and"
            " RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from None
    except (RuntimeError, OSError, ValueError) as error:
        raise KuakaError(f"{address} is no Ray job server: {str(error).splitlines()[0]}") from None
    return client
