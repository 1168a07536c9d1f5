"""The promises of `tests.simulation`, held against real servers that are killed, paused, cut off and stopped.

`visitors` use a `site` that several processes serve, and note in a `history` what they did and saw; a `nemesis` does
what it can meanwhile; the history is checked when all is over.
"""

from .run import Report, torture

__all__ = ["Report", "torture"]
