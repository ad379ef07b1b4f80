"""Where results are printed: a terminal, as wide as it is, or a pipe, so wide that nothing is cut."""

from rich.console import Console

_PIPE_COLUMNS = 200


def results_console() -> Console:
    """That of stdout."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_COLUMNS)
