"""What can be set about sessions, and the rules of time that follow from it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from .cookie import LONGEST_MAX_AGE, SessionCookie, check_header

__all__ = ["END_REMEMBERED", "LATE", "UNTOLD_LIFETIME", "SessionSettings", "checked_lifetime", "now", "truncated_to_ms"]

END_REMEMBERED = timedelta(minutes=1)
"""How long a store remembers that a session has ended; see `SessionEnd`."""

LATE = timedelta(seconds=10)
"""How long after the end of its session a request may begin and still count as one that was on its way.

It is also by how much the clocks of several servers may differ.
"""

UNTOLD_LIFETIME = timedelta(seconds=50)
"""How long a session that moves to a new id lives there before it is certain that it has left the old one.

It is shorter than `END_REMEMBERED`, so that for as long as it can still be completed, the old id tells what happened.
"""

# The longest timeout, so that no time that is computed with it is beyond what a datetime holds.
LONGEST = timedelta(days=365_000)

SHORTEST = timedelta(seconds=1)

MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings of a `SessionManager`, which says what each means and has their defaults.

    :raises TypeError, ValueError: for settings that cannot be meant, saying which.
    """

    cookie: SessionCookie
    header: str | None
    idle_timeout: timedelta
    absolute_timeout: timedelta | None
    touch_interval: timedelta
    max_per_owner: int | None
    unreadable: Literal["error", "new"]
    wait_for_save: bool
    timeout: float
    max_bytes: int | None
    _untouched: timedelta = field(init=False)  # how long a session may still have to live when a use extends it

    def __post_init__(self) -> None:
        if not isinstance(self.cookie, SessionCookie):
            raise TypeError(f"cookie must be a SessionCookie, not {type(self.cookie).__name__}")
        if self.header is not None:
            check_header(self.header)
        for name in ("idle_timeout", "absolute_timeout", "touch_interval"):
            value = getattr(self, name)
            if value is None and name == "absolute_timeout":
                continue
            if not isinstance(value, timedelta):
                raise TypeError(f"{name} must be a datetime.timedelta, not {type(value).__name__}")
            if name != "touch_interval" and not SHORTEST <= value <= LONGEST:
                raise ValueError(f"{name}={value!r}: must be at least a second and at most {LONGEST.days:,} days")
        if not timedelta(0) <= self.touch_interval < self.idle_timeout:
            raise ValueError(f"touch_interval={self.touch_interval!r}: must be shorter than idle_timeout")
        if self.max_per_owner is not None:
            if isinstance(self.max_per_owner, bool) or not isinstance(self.max_per_owner, int):
                raise TypeError(f"max_per_owner must be an int or None, not {type(self.max_per_owner).__name__}")
            if self.max_per_owner < 1:
                raise ValueError(f"max_per_owner={self.max_per_owner!r}: must be at least 1, or None for any number")
        if self.unreadable not in ("error", "new"):
            raise ValueError(f"unreadable={self.unreadable!r}: must be 'error' or 'new'")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds, not {type(self.timeout).__name__}")
        if not 0 < self.timeout <= LONGEST.total_seconds():
            raise ValueError(f"timeout={self.timeout!r}: must be a positive number of seconds")
        if self.max_bytes is not None and not self.max_bytes > 0:
            raise ValueError(f"max_bytes={self.max_bytes!r}: must be a positive number of bytes")

        object.__setattr__(self, "_untouched", self.idle_timeout - self.touch_interval)

    def expiry(self, created: datetime, moment: datetime, lifetime: timedelta | None) -> datetime:
        """Returns when a session that was created then and is used at *moment* expires.

        :arg lifetime: the session's own idle timeout; None: that of all.
        """
        return self.end(created, moment + (lifetime or self.idle_timeout))

    def cookie_lifetime(self, created: datetime | None, lifetime: timedelta | None) -> timedelta | None:
        """Returns how long a browser that gets the cookie now is to keep it; None until it is closed.

        A session with a *lifetime* of its own lives on as long as it is used, so its cookie is kept as long as browsers
        keep any.

        :arg created: when the session began; None for a new one.
        """
        max_age = self.cookie.max_age if lifetime is None else LONGEST_MAX_AGE
        limit = self.absolute_timeout
        if max_age is None or limit is None:
            return max_age
        moment = now()
        return min(max_age, (created or moment) + limit - moment)

    def is_valid(self, created: datetime, expires: datetime, moment: datetime) -> bool:
        """Tells whether a session with these times has not expired at *moment*."""
        return moment < self.end(created, expires)

    def end(self, created: datetime, expires: datetime) -> datetime:
        """Returns when a session with these times ends, as the limit may be shorter than when *expires* was stored."""
        if self.absolute_timeout is None:
            return expires
        try:
            return min(expires, created + self.absolute_timeout)
        except OverflowError:  # somebody else has written that it was created in the year 9999
            return expires

    def is_touch_due(self, created: datetime, expires: datetime, moment: datetime, lifetime: timedelta | None) -> bool:
        """Tells whether a session that would expire then is to live longer when it is used at *moment*.

        One with a *lifetime* that is shorter than that of others is written more often in proportion.
        """
        if lifetime is None:
            untouched = self._untouched
        else:
            untouched = lifetime - min(self.touch_interval, self.touch_interval * (lifetime / self.idle_timeout))
        return expires - moment <= untouched and expires < self.expiry(created, moment, lifetime)


def checked_lifetime(lifetime: object) -> timedelta | None:
    """Returns a session's own idle timeout as exact as stores keep it, in milliseconds.

    :raises TypeError, ValueError: when it is none.
    """
    if lifetime is None:
        return None
    if not isinstance(lifetime, timedelta):
        raise TypeError(f"session_lifetime must be a datetime.timedelta or None, not {type(lifetime).__name__}")
    if not SHORTEST <= lifetime <= LONGEST:
        raise ValueError(f"session_lifetime={lifetime!r}: must be at least a second and at most {LONGEST.days:,} days")
    return lifetime // MILLISECOND * MILLISECOND


def now() -> datetime:
    """Returns the time, in UTC. All of this package's times come from here."""
    return datetime.now(UTC)


def truncated_to_ms(moment: datetime) -> datetime:
    """Returns *moment* as exact as stores keep it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
