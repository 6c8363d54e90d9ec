"""When to try again, and for how long."""

import random
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from datetime import datetime, timezone


@dataclass(frozen=True)
class Retry:
    """How patient a client is with a server that cannot be reached or is busy. All times are in seconds.

    A request may be repeated without harm: the same latents give the same picture. It is repeated when a connection fails
    or breaks, and after the answers 429, 502, 503 and 504. A server that says when to come back (`Retry-After`) is not
    asked before. Any other refusal would come again, so it is final.
    """

    patience: float = 60.0
    """How long to try an endpoint that has answered before and cannot be reached now."""
    first_contact: float = 1.0
    """The same for one that has never answered: its URL is probably misspelt."""
    busy_patience: float = 600.0
    """How long to come back to a server that is busy (429, 503)."""
    first_pause: float = 0.2
    """The pause after the first failure. It doubles with each further one."""
    longest_pause: float = 10.0
    """The longest pause that the client chooses itself."""

    @classmethod
    def never(cls) -> "Retry":
        """The first failure is final."""
        return cls(patience=0.0, first_contact=0.0, busy_patience=0.0)

    def pause(self, failures: int) -> float:
        """The pause after so many failures in a row, from 1: at random between half and all of the doubled one, so that
        clients that failed together do not come back together."""
        doubled = self.first_pause * 2.0 ** min(failures - 1, 16)
        return min(doubled, self.longest_pause) * random.uniform(0.5, 1.0)

    def requested(self, retry_after: float) -> float:
        """The pause that a server asks for and up to a quarter more, for the same reason. Never less."""
        return retry_after + min(retry_after, self.longest_pause) * random.uniform(0.0, 0.25)


def retry_after(header: str | None, date: str | None) -> float | None:
    """The seconds that `Retry-After` means: it is a number of them or a date (RFC 9110, 10.2.3). A date is compared with
    the server's own clock where it tells its `Date`; one that has passed means now."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    when = _date(text)
    if when is None:
        return None
    now = _date(date) if date is not None else None
    return max(0.0, (when - (now or datetime.now(timezone.utc))).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text.strip())
    except ValueError:
        return None
    return when.replace(tzinfo=timezone.utc) if when.tzinfo is None else when
