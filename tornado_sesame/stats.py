"""What a manager counts, for those who monitor it."""

from dataclasses import dataclass

__all__ = ["SessionStats"]


@dataclass(slots=True)
class SessionStats:
    """Counts and sums since the manager was made; times are in seconds.

    A call of the store is for any number of sessions, and its time counts for each of them. So ``load_seconds / loads``
    is how long a request waits for the store on average, once its call has begun.

    :arg loads: sessions asked of the store.
    :arg saves: sessions given to the store to save.
    :arg commands: calls of the store, each for any number of sessions.
    :arg failures: loads and saves that failed.
    :arg holds: responses, or parts of them, that waited until their session was saved.
    :arg load_seconds, save_seconds: how long the store took for all of them.
    :arg hold_seconds: how long all of the responses waited.
    :arg longest_load, longest_save, longest_hold: the largest of these.
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
        """Counts a call that has loaded, or has tried to."""
        self.commands += 1
        self.loads += sessions
        self.load_seconds += sessions * seconds
        self.longest_load = max(self.longest_load, seconds)

    def add_save(self, sessions: int, seconds: float) -> None:
        """Counts a call that has saved, or has tried to."""
        self.commands += 1
        self.saves += sessions
        self.save_seconds += sessions * seconds
        self.longest_save = max(self.longest_save, seconds)

    def add_hold(self, seconds: float) -> None:
        """Counts a response, or a part of one, that was held."""
        self.holds += 1
        self.hold_seconds += seconds
        self.longest_hold = max(self.longest_hold, seconds)
