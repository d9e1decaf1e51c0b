"""Who looks after the processes of the ledger's state machine: takes over, sweeps, and brings all to an end."""

from __future__ import annotations

import contextlib
import itertools

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.runtime.supervision.sweeper import Sweeper
from dynamo_tasks.store.ledger.dead import DeadList
from dynamo_tasks.store.ledger.recovery import MAX_ATTEMPTS, MAX_IDLE_ATTEMPTS
from dynamo_tasks.store.streams.presence import ReaderPresence
from tests.property.ledger_invariants import check_sweep, read_dump
from tests.property.ledger_processes import Processes
from tests.property.ledger_world import World

__all__ = ["Observers"]


class Observers:
    """What any live process does for the others, and what an operator does."""

    def __init__(self, world: World, processes: Processes):
        self._world, self._processes = world, processes
        self._dead_list, self._sweeper = DeadList(world.store), Sweeper(world.store)
        self._presence = ReaderPresence(world.store)
        self._suspects: set[str] = set()

    async def take_over(self, lease: int) -> None:
        """An observer takes an instance for dead, rightly or not."""
        known = await self._world.store.commands.execute("SMEMBERS", self._world.keys.leases)
        if f"{lease:x}".encode() not in known:
            return
        ids = await self._world.recovery.owned(self._world.namespace, lease)
        running = [one for one in ids if (await self._world.record(one))["state"] == "RUNNING"]
        await self._world.recovery.take_over(self._world.namespace, lease, "me")
        for record in [await self._world.record(one) for one in running]:
            used_up = (
                int(record.get("idle_attempts", 0)) >= MAX_IDLE_ATTEMPTS
                or int(record["attempts"]) >= MAX_ATTEMPTS
            )
            assert record["state"] == ("FAILED" if used_up else "QUEUED"), record

    async def sweep(self) -> None:
        """What falls due, and messages that were lost."""
        before, now = read_dump(self._world.client, self._world.keys).records, self._world.now
        await self._sweeper.due(self._world.namespace)
        check_sweep(before, read_dump(self._world.client, self._world.keys).records, now)
        self._suspects, _ = await self._world.recovery.lost_messages(self._world.namespace, self._suspects)
        lay = read_dump(self._world.client, self._world.keys).queues
        await self._world.ledger.upkeep.erase(self._world.namespace, looked_at=2)
        dump = read_dump(self._world.client, self._world.keys)
        # What is delivered once more may come after the purge, or by a queue of another component: it is dropped when
        # it is claimed.
        purged = [
            one
            for one, record in dump.records.items()
            if record.get("purged") and one not in self._world.repeated
        ]
        waiting = [message for messages in dump.queues.values() for message in messages]
        for message in itertools.chain(*lay.values()):
            gone = [
                one for one, record in dump.records.items() if record.get("purged") and f'"{one}"' in message
            ]
            assert message in waiting or gone, f"6: taken with what was purged: {message}"
        assert not any(f'"{one}"' in message for one in purged for message in waiting), (
            f"6: {purged} {waiting}"
        )

    async def end_overdue(self, request_id: str) -> None:
        """A sweeper that read long ago that its deadline may have passed."""
        before, now = await self._world.record(request_id), self._world.now
        end = End(State.FAILED, "deadline", error=ErrorInfo("deadline_exceeded", "late"))
        reply = await self._world.ledger.cancel(self._world.namespace, request_id, end=end, guard="due")
        overdue = (
            bool(before) and before["state"] not in TERMINAL and 0 < int(before.get("deadline") or 0) <= now
        )
        assert (reply == "OK") == overdue, f"{before}: ended as overdue: {reply}"

    async def revive(self, request_id: str) -> None:
        """``dynamo-tasks dead retry``."""
        record = await self._world.record(request_id)
        with contextlib.suppress(RequestNotFoundError):
            await self._dead_list.retry(request_id)
            assert record["state"] == "FAILED"
            self._world.history.revived(request_id)

    async def clients_die(self) -> None:
        """All channels of clients have lost their subscribers (here they never have any)."""
        for _ in range(2):
            await self._presence.check(self._world.namespace)

    async def quiesce(self) -> None:
        """Everybody dies, new processes do all that is left; everything ends."""
        self._suspects = set()
        for _ in range(12):
            self._world.passes(3_600_000)
            for n in range(len(self._world.instances)):
                await self._processes.kill(n)
            self._world.lost.clear()
            fresh = {one.lease for one in self._world.instances}
            for lease in set(await self._world.recovery.owners(self._world.namespace)) - fresh:
                await self.take_over(lease)
            await self.sweep()
            await self.sweep()
            for one in self._world.instances:
                await self._processes.work_off(one)
            dump = self._world.verify()
            if not dump.open and not dump.queued and not any(dump.queues.values()):
                return
        raise AssertionError(f"not at rest after 12 hours: {dump.open} {dump.queues}")

    async def leave(self) -> None:
        """Orderly end of all processes and clients; what is left must have an end of its own."""
        dump = self._world.verify()
        for channel, ids in dump.reads.items():
            for request_id in ids:
                await self._world.detach(request_id, channel, True)
        for one in self._world.instances:
            await self._world.registry.revoke(self._world.namespace, one.lease)
        await self.clients_die()
