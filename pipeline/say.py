"""How a command speaks to whoever runs it: a line on stderr, which is not for results."""

import sys


def say(text: str) -> None:
    """A line that says who speaks."""
    sys.stderr.write(f"kuaka: {text}\n")
