"""Whose run is next: the user who was served longest ago, each user's own runs in order.

With one user this is first come, first served. With several, a user who queued ten runs does not
keep another from his first. One run executes at a time, so that no run disturbs another's numbers.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.dispatch import Job


class Turns:
    """The waiting jobs, in the order in which they will run. The dispatcher holds its own lock.

    Has the part of ``deque`` that the dispatcher uses: ``append popleft remove index clear``."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        #: When each user was served last; who never was comes first, in order of arrival.
        self._served: dict[str, int] = {}
        self._turn = itertools.count(1)

    def append(self, job: Job) -> None:
        self._waiting.setdefault(job.owner, deque()).append(job)

    def popleft(self) -> Job:
        """The next job; IndexError when nobody waits."""
        if not self._waiting:
            raise IndexError("nobody waits")
        owner = min(self._waiting, key=lambda o: self._served.get(o, 0))
        job = self._waiting[owner].popleft()
        if not self._waiting[owner]:
            del self._waiting[owner]
        self._served[owner] = next(self._turn)
        return job

    def remove(self, job: Job) -> None:
        """ValueError when it does not wait here."""
        jobs = self._waiting.get(job.owner)
        if jobs is None or job not in jobs:
            raise ValueError(f"{job.name} is not queued")
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.owner]

    def index(self, job: Job) -> int:
        """How many jobs run before this one, as things stand."""
        for number, other in enumerate(self):
            if other is job:
                return number
        raise ValueError(f"{job.name} is not queued")

    def clear(self) -> None:
        self._waiting.clear()

    def __iter__(self) -> Iterator[Job]:
        order = sorted(self._waiting, key=lambda o: self._served.get(o, 0))
        rounds = [deque(self._waiting[o]) for o in order]
        while rounds:
            for jobs in rounds:
                yield jobs.popleft()
            rounds = [jobs for jobs in rounds if jobs]

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def __contains__(self, job: object) -> bool:
        return any(other is job for jobs in self._waiting.values() for other in jobs)
