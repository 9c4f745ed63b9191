"""The mailbox: an asynchronous Ray actor that holds the tasks of a harvest on their way."""

from __future__ import annotations

import asyncio
from typing import Any


def mailbox_class() -> type:
    """Return the class of the actor.

    Ray sends the code of a class that is made inside a function, and of any other its name. The mailbox's process
    would import this package for the name, and PyTorch with it, which takes seconds and some hundred MB.
    """

    class Mailbox:
        """Tasks on their way, by shard."""

        def __init__(self) -> None:
            self._order: list[int] = []
            self._boxes: dict[int, Any] = {}
            self._workers: list[Any] = []
            self._closed = False
            self._changed = asyncio.Condition()

        async def put(self, shard: int, box: Any) -> None:
            """Add a task."""
            async with self._changed:
                self._order.append(shard)
                self._boxes[shard] = box
                self._changed.notify_all()

        async def close(self) -> None:
            """Say that no more tasks come."""
            async with self._changed:
                self._closed = True
                self._changed.notify_all()

        async def shard(self, place: int) -> int | None:
            """Wait for the task at a place of the order; None when there will be none."""
            async with self._changed:
                await self._changed.wait_for(lambda: self._closed or place < len(self._order))
                return self._order[place] if place < len(self._order) else None

        async def task(self, shard: int) -> Any:
            """Return a task; None when it was dropped."""
            return self._boxes.get(shard)

        async def drop(self, shard: int) -> None:
            """Forget a task that is done."""
            self._boxes.pop(shard, None)

        async def enter(self, worker: Any) -> None:
            """Take note of a worker, so that it can be stopped."""
            self._workers.append(worker)

        async def workers(self) -> list[Any]:
            """Return every worker that there was."""
            return self._workers

    return Mailbox
