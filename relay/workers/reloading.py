"""A reload of several processes: the hub reads and checks the file, then all take the very same text, or none does.

First everybody is asked to read it and to say what is wrong; when all are content, it is put into effect, first in
the hub, whose authority then knows every key a worker may ask for. One process that cannot keeps all as they were.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from relay import reload
from relay.admission.principals import Principals
from relay.config import file
from relay.config.model import Config
from relay.following import Still
from relay.snapshot import Snapshot
from relay.workers.members import Member, Members
from relay.workers.messages import Abandon, Commit, Prepare, Welcome

PREPARE_WAIT = 60.0
"""Seconds a worker has to read a configuration."""
COMMIT_WAIT = 10.0


class Subject(Protocol):
    """The hub, as a reload sees it."""

    members: Members

    @property
    def config(self) -> Config: ...

    def compile(self, config: Config, principals: Principals) -> Snapshot:
        """Raises OSError or ValueError for what cannot be."""

    def apply(self, snapshot: Snapshot, source: bytes | None) -> Callable[[reload.Breathe], None]:
        """It is in effect in the hub. Returns how to let go of what it replaces."""

    def reloaded(self, changes: dict[str, list[str]]) -> None:
        """It is in effect everywhere."""


class Reloading:
    """Lives as long as the hub."""

    def __init__(self, subject: Subject, pace: reload.Pace) -> None:
        self._subject = subject
        self._number = 0
        self._pace = pace

    async def reload(self, still: Still) -> list[str]:
        """The faults that kept everything as it was."""
        subject, pace = self._subject, self._pace
        old = subject.config
        try:
            source = await asyncio.to_thread(file.read, old.path)
        except file.ConfigErrors as error:
            return [str(fault) for fault in error.faults]
        made = await asyncio.to_thread(reload.prepare, old, os.environ, pace, source, still)
        if isinstance(made, list):
            return made
        new = made.config
        try:
            snapshot = subject.compile(new, made.principals)
        except (OSError, ValueError) as error:
            return [f"{old.path.name}: {type(error).__name__}"]
        self._number += 1
        faults = await self._prepare(source, new.digest)
        if faults:
            subject.members.tell(Abandon(self._number))
            await asyncio.to_thread(reload.let_go, made.principals, new.filed, {}, pace)
            return faults
        over = subject.apply(snapshot, source)
        await self._commit(source)
        reload.tell(old.notices, made)
        subject.reloaded(made.difference)
        del made, old
        await asyncio.to_thread(over, pace)
        return []

    async def _prepare(self, source: bytes, digest: str) -> list[str]:
        members, number = self._subject.members, self._number
        members.tell(Prepare(number, source))
        if not await members.until(self._everybody(_has_voted, number), PREPARE_WAIT):
            return ["a worker did not answer in time"]
        for member in members.present():
            vote = member.vote
            if vote is None or vote.reload != number:
                continue
            if vote.faults:
                return vote.faults
            if vote.digest != digest:
                return ["the files changed while they were read"]
        return []

    async def _commit(self, source: bytes) -> None:
        members, number = self._subject.members, self._number
        ready = [member for member in members.present() if _has_voted(member, number)]
        # Who came meanwhile has not been asked.
        new = [member for member in members.present() if not _has_voted(member, number)]
        members.tell(Commit(number), ready)
        members.tell(Welcome(source), new)
        await members.until(lambda: all(_has_committed(m, number) for m in ready), COMMIT_WAIT)

    def _everybody(self, has: Callable[[Member, int], bool], number: int) -> Callable[[], bool]:
        """Of those who are there now; who goes is not waited for."""
        members = self._subject.members
        asked = members.present()

        def fits() -> bool:
            there = members.present()
            return all(has(member, number) for member in asked if member in there)

        return fits


def _has_voted(member: Member, number: int) -> bool:
    return member.vote is not None and member.vote.reload == number


def _has_committed(member: Member, number: int) -> bool:
    return member.committed == number or not member.link.open
