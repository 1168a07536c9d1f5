"""From one store to another."""

import logging

from ..errors import SessionRecordError
from .base import SessionInsert, SessionRecord, SessionStore

__all__ = ["copy_sessions"]

logger = logging.getLogger("tornado_sesame")

AT_ONCE = 500
TIMEOUT = 60.0  # seconds that a store has for so many sessions


async def copy_sessions(source: SessionStore, target: SessionStore) -> int:
    """Copies all sessions from *source* to *target*. The cookies still fit, so nobody is logged out.

    Sessions that *target* has already stay as they are there, so it can be called again after an error. Changes made in
    *source* meanwhile may be missed, so call it when no server uses *source*.

    A session that cannot be read is skipped, with a warning in the log.

    :returns: how many sessions were copied or were in *target* already.
    :raises Exception: what a store raises, or why one of the sessions could not be stored.
    """
    copied = 0
    records: list[SessionRecord] = []
    async for record in source.records(timeout=TIMEOUT):
        if isinstance(record, SessionRecordError):
            logger.warning("not copied: %s", record.log_message)
            continue
        records.append(record)
        if len(records) == AT_ONCE:
            copied += await _insert(records, target)
            records = []
    return copied + await _insert(records, target)


async def _insert(records: list[SessionRecord], target: SessionStore) -> int:
    results = await target.save([SessionInsert(record) for record in records], timeout=TIMEOUT) if records else ()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return len(records)
