"""From one store to another."""

from .base import SessionRecord, SessionStore, SessionWrite

__all__ = ["copy_sessions"]

AT_ONCE = 500


async def copy_sessions(source: SessionStore, target: SessionStore) -> int:
    """Copies all sessions from one store to another; everybody stays logged in, as the cookies still fit.

    Sessions that *target* has already stay as they are there, so it can be called again after an error. What changes in
    *source* while it runs is missed: call it when no server uses *source*.

    :returns: how many sessions *source* has.
    :raises Exception: what a store raises, or could not do with one of the sessions.
    """
    copied = 0
    records: list[SessionRecord] = []
    async for record in source.records():
        records.append(record)
        if len(records) == AT_ONCE:
            copied += await _insert(records, target)
            records = []
    return copied + await _insert(records, target)


async def _insert(records: list[SessionRecord], target: SessionStore) -> int:
    results = await target.save([SessionWrite.inserting(record) for record in records]) if records else ()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return len(records)
