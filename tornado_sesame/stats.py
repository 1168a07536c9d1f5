"""What a manager counts, for those who monitor it."""

from dataclasses import dataclass

__all__ = ["SessionStats"]


@dataclass(slots=True)
class SessionStats:
    """Counts and times since the manager was made. All times are in seconds.

    A call of the store is for any number of sessions, and its time counts once for each of them. So
    ``load_seconds / loads`` is how long a request waits for the store on average, once its call has begun.

    :arg loads: how many sessions the store was asked for.
    :arg saves: how many sessions the store was given to save.
    :arg commands: how many calls of the store these were.
    :arg failures: how many loads and saves failed.
    :arg holds: how many responses, or parts of one, waited until their session was saved.
    :arg load_seconds: how long the loads took, all together.
    :arg save_seconds: how long the saves took, all together.
    :arg hold_seconds: how long the responses waited, all together.
    :arg longest_load, longest_save, longest_hold: how long the longest of each took.
    """

    loads: int = 0
    saves: int = 0
    commands: int = 0
    failures: int = 0
    holds: int = 0
    load_seconds: float = 0.0
    save_seconds: float = 0.0
    hold_seconds: float = 0.0
    longest_load: float = 0.0
    longest_save: float = 0.0
    longest_hold: float = 0.0

    def add_load(self, sessions: int, seconds: float) -> None:
        """Counts a call that has loaded, or tried to load, so many *sessions* in so many *seconds*."""
        self.commands += 1
        self.loads += sessions
        self.load_seconds += sessions * seconds
        self.longest_load = max(self.longest_load, seconds)

    def add_save(self, sessions: int, seconds: float) -> None:
        """Counts a call that has saved, or tried to save, so many *sessions* in so many *seconds*."""
        self.commands += 1
        self.saves += sessions
        self.save_seconds += sessions * seconds
        self.longest_save = max(self.longest_save, seconds)

    def add_hold(self, seconds: float) -> None:
        """Counts a response, or a part of one, that was held for so many *seconds*."""
        self.holds += 1
        self.hold_seconds += seconds
        self.longest_hold = max(self.longest_hold, seconds)
