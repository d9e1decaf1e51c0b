"""The processes of the ledger's state machine: what each does, and what must come of it."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from dynamo_tasks.errors import FencedError
from dynamo_tasks.protocol.events import End, ErrorInfo, EventId
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.forwarding import forward, preempt
from dynamo_tasks.store.ledger.ledger import Attempt, KeptResult
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.queue_keys import PRIORITY_STEPS, priority_suffix
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.registry import new_lease
from tests.property.ledger_invariants import check_claim
from tests.property.ledger_parts import Held, Instance
from tests.property.ledger_world import World

__all__ = ["Processes"]


class Processes:
    """What the processes of a world do, one step at a time."""

    def __init__(self, world: World):
        self._world = world

    async def boot(self, endpoint: EndpointId) -> Instance:
        """A new process registers."""
        made = Instance(endpoint, new_lease())
        await self._world.registry.register(self._world.namespace, made.lease, [made.info])
        return made

    async def pop(self, one: Instance, own: bool) -> None:
        """Take a message; nobody knows of it until it is claimed."""
        base = one.endpoint.instance_queue(one.lease) if own else one.endpoint.queue
        for queue in (base + priority_suffix(step) for step in PRIORITY_STEPS):
            raw = await self._world.store.commands.execute("RPOP", queue)
            if raw is not None:
                one.hand.append({**msgspec.json.decode(raw), "raw": raw})
                return

    async def claim(self, one: Instance, again: bool = False) -> None:
        """Claim what it has in its hand, as an :class:`Execution` does; ``again``: the first reply was lost."""
        if not one.hand:
            return
        told = one.hand.pop(0)
        request_id, nonce = told["id"], f"n{self._world.history.number()}"
        replies = [await self._ask(one, told, nonce) for _ in range(1 + again)]
        reply = replies[-1]
        if isinstance(replies[0], Attempt):
            same = isinstance(reply, Attempt) and reply.epoch == replies[0].epoch
            assert same, f"a claim asked again is another claim: {reply}"
        if isinstance(reply, Attempt):
            one.held[request_id] = await self._hold(reply, told["retries"])
        elif reply.reason == "UNSETTLED" and request_id not in one.held and request_id not in one.completing:
            one.completing.add(request_id)
        elif reply.reason == "EXPIRED":
            await self._world.ledger.expire(self._world.namespace, request_id, "late")
        elif reply.reason == "WAIT":
            await self._world.ledger.defer(self._world.namespace, request_id, reply.wait_ms, told["raw"])

    async def _ask(self, one: Instance, told: dict[str, Any], nonce: str) -> Attempt | ClaimRefused:
        before, now = await self._world.record(told["id"]), self._world.now
        lease = self._world.keys.lease(int(before.get("owner") or "0", 16))
        alive = bool(await self._world.store.commands.execute("EXISTS", lease))
        try:
            claimed = await self._world.ledger.claim(
                one.endpoint, told["id"], one.lease, retries=told["retries"], tracked=told["tracked"],
                queue=one.endpoint.queue, message=told["raw"], nonce=nonce,
            )  # fmt: skip
        except ClaimRefused as refused:
            if refused.reason == "UNSETTLED":
                await self._check_completion(one, told["id"], before)
            return refused
        self._world.history.claimed(told["id"])
        self._world.history.started.add(told["id"])
        if before and (before["state"], before.get("nonce")) != ("RUNNING", claimed.nonce):
            check_claim(before, told["retries"], now, alive, claimed.epoch)
        return claimed

    async def _check_completion(self, one: Instance, request_id: str, before: dict[str, str]) -> None:
        """Celery's completion is run by one process that is known to live, and not after its end."""
        assert before["settled"] == "0", f"6: {request_id} is settled, and its completion runs again"
        for other in self._world.instances:
            if (
                other is not one
                and request_id in other.completing
                and before.get("owner") == f"{other.lease:x}"
            ):
                alive = await self._world.store.commands.execute(
                    "EXISTS", self._world.keys.lease(other.lease)
                )
                assert not alive, f"1: two run the completion of {request_id}"

    async def _hold(self, attempt: Attempt, retries: int) -> Held:
        log = await self._world.log(attempt.id)
        completion = (await self._world.record(attempt.id)).get("ignore_result") != "1"
        count = sum(kind == "c" for _, kind, _ in log)
        return Held(attempt, EventId(attempt.epoch, 0), count, retries, completion)

    async def append(self, one: Instance, request_id: str) -> None:
        """The writer's XADD; refused means to abort."""
        held = one.held[request_id]
        wanted = EventId(held.attempt.epoch, held.top.seq + 1)
        before = await self._world.record(request_id)
        try:
            reply = await self._world.store.commands.execute(
                "XADD", self._world.keys.stream(request_id), "NOMKSTREAM", str(wanted), "c", str(held.values)
            )
        except ReplyError:
            reply = None
        mine = before.get("epoch") == str(held.attempt.epoch) and before.get("state") not in TERMINAL
        assert (reply is not None) == mine, f"{before}: an attempt of epoch {wanted.epoch} wrote: {reply}"
        if reply is None:
            await self._aborted(one, request_id)
            return
        held.top, held.values = wanted, held.values + 1

    async def _aborted(self, one: Instance, request_id: str) -> None:
        """Fenced. Of what somebody else ended, Celery's completion is still its own."""
        held = one.held.pop(request_id)
        record = await self._world.record(request_id)
        if record.get("state") not in TERMINAL or not held.completion or record.get("settled") == "1":
            return
        if record["state"] == "CANCELLED":
            one.completing.add(request_id)
            return
        told = {"id": request_id, "retries": held.retries, "tracked": True, "raw": b""}
        reply = await self._ask(one, told, f"n{self._world.history.number()}")
        if isinstance(reply, ClaimRefused) and reply.reason == "UNSETTLED":
            one.completing.add(request_id)

    async def finish(
        self, one: Instance, request_id: str, good: bool, again: bool, kept: bool = False
    ) -> None:
        """Its last event; ``again``: the first reply was lost; ``kept``: Celery's result goes with it."""
        held = one.held[request_id]
        before = await self._world.record(request_id)
        end = End(State.SUCCEEDED, "stop") if good else _failed()
        kept = kept and good and held.completion
        held.completion = held.completion and not kept
        place, value = f"celery-task-meta-{self._world.namespace}-{request_id}", str(held.attempt.epoch)
        known = await self._world.store.commands.execute("GET", place)
        for _ in range(1 + again):
            reply = await self._world.ledger.finish(
                held.attempt, top=held.top, end=end, result=b"1", settled=not held.completion,
                kept=KeptResult(place, 60, value) if kept else None,
            )  # fmt: skip
        written = await self._world.store.commands.execute("GET", place)
        assert written == (value.encode() if kept and reply == "OK" else known), "whose result is it?"
        owns = (before.get("state"), before.get("owner")) == ("RUNNING", f"{one.lease:x}")
        mine = owns and before["epoch"] == str(held.attempt.epoch)
        assert (reply == "OK") == mine, f"{before}: finish answered {reply}"
        if reply != "OK":
            held.completion = held.completion or kept  # of what somebody else has ended, it is still its own
            await self._aborted(one, request_id)
            return
        del one.held[request_id]
        if held.completion:
            one.completing.add(request_id)

    async def settle(self, one: Instance, request_id: str) -> None:
        """Celery's completion is done."""
        one.completing.discard(request_id)
        await self._world.ledger.settle(self._world.namespace, request_id)

    async def resync(self, one: Instance, request_id: str) -> None:
        """The writer's connection was lost: what does the server know?"""
        attempt = one.held[request_id].attempt
        before = await self._world.record(request_id)
        world = self._world
        reply = await script("resync").run(
            world.store.commands, world.pair(request_id), *attempt.fields, Field.READERS, "",
            base=world.keys.base, id=request_id, lease=f"{attempt.lease:x}", claimed=attempt.epoch, nonce=attempt.nonce,
            attempt=attempt.number, previous=str(attempt.previous), new_server=0,
            namespaces=world.store.keys.namespaces, namespace=world.namespace,
        )  # fmt: skip
        mine = before.get("state") == "RUNNING" and before.get("nonce") == attempt.nonce
        assert (reply[0] == b"OK") == mine, f"{before}: resync answered {reply}"
        if mine:
            assert reply[1].decode() == str(one.held[request_id].top)
        else:
            await self._aborted(one, request_id)

    async def release(
        self, one: Instance, request_id: str, *, retry: bool, wait_ms: int, again: bool
    ) -> None:
        """Celery's retry, or a requeue at drain."""
        held = one.held.pop(request_id)
        retries = held.retries + 1 if retry else held.retries
        message = self._world.message(request_id, one.endpoint, retries) if retry else b""
        for _ in range(1 + again):
            with contextlib.suppress(FencedError):
                await self._world.ledger.release(
                    held.attempt, retries=retries, message=message, front=not retry, counts=retry,
                    not_before=(self._world.now + wait_ms) / 1000 if retry and wait_ms else 0.0,
                )  # fmt: skip

    async def forward(self, one: Instance, request_id: str, target: Instance, again: bool) -> None:
        """A router hands it on: it has not been started yet."""
        self._world.history.started.discard(request_id)
        held = one.held.pop(request_id)
        message = self._world.message(request_id, target.endpoint, held.retries)
        for _ in range(1 + again):
            await forward(self._world.store, held.attempt, target.endpoint, target.lease, message)

    async def preempt(self, one: Instance, request_id: str, shared: bool, again: bool) -> None:
        """It is released for others; ``again``: the first reply was lost."""
        held = one.held[request_id]
        before = await self._world.record(request_id)
        owns = (before.get("state"), before.get("owner")) == ("RUNNING", f"{one.lease:x}")
        mine = owns and before["epoch"] == str(held.attempt.epoch)
        waits = (before.get("state"), before.get("epoch")) == ("QUEUED", str(held.attempt.epoch))
        for _ in range(1 + again):
            reply = await preempt(self._world.store, held.attempt, shared=shared)
            assert (reply == "OK") == (mine or waits), f"{before}: preempt answered {reply}"
        if not (mine or waits):
            await self._aborted(one, request_id)
            return
        del one.held[request_id]
        if mine:
            await self._check_preempted(held, before, shared)

    async def _check_preempted(self, held: Held, before: dict[str, str], shared: bool) -> None:
        request_id = held.attempt.id
        after = await self._world.record(request_id)
        assert int(after["attempts"]) == held.attempt.number - 1, (
            f"{after}: an attempt that was preempted counts"
        )
        assert after.get("idle_attempts") == before.get("idle_attempts"), f"{after}: it counts as idle"
        assert after["queue"] == (self._world.shared(before) if shared else before["queue"])
        front = await self._world.store.commands.execute(
            "LINDEX", after["queue"] + after.get("suffix", ""), -1
        )
        assert front == after["message"].encode(), f"{request_id} is not in front of its list"

    async def kill(self, n: int) -> None:
        """``kill -9``; another process is started in its place. Its lease lives until somebody sees it."""
        dead = self._world.instances[n]
        self._world.lost.append(dead.lease)
        self._world.instances[n] = await self.boot(dead.endpoint)

    async def lapse(self, lease: int) -> None:
        """It hangs for longer than its lease."""
        info = [one.info for one in self._world.instances if one.lease == lease]
        keys = [self._world.keys.registration(f"{i.component}:{i.endpoint}:{lease:x}") for i in info]
        await self._world.store.commands.execute(
            "DEL", self._world.keys.lease(lease), self._world.keys.load(lease), *keys
        )

    async def renew(self, one: Instance) -> None:
        """What a process does every 250 ms; a zombie notices nothing and goes on."""
        one.counter += 1
        if not await self._world.registry.renew(
            self._world.namespace, one.lease, one.counter, [one.info], Load()
        ):
            await self._world.registry.register(self._world.namespace, one.lease, [one.info])

    async def reconcile(self, one: Instance) -> None:
        """What the server says it owns and it does not run goes back, once that was seen twice."""
        extra = (
            await self._world.recovery.owned(self._world.namespace, one.lease)
            - one.held.keys()
            - one.completing
        )
        for request_id in extra & one.unaccounted:
            await self._world.recovery.requeue(self._world.namespace, request_id, one.lease)
        one.unaccounted = extra - one.unaccounted

    async def work_off(self, one: Instance) -> None:
        """Take all that waits, and end all that runs."""
        for own in (False, True):
            await self.pop(one, own)
            while one.hand:
                await self.claim(one)
                await self.pop(one, own)
        for request_id in list(one.held):
            await self.append(one, request_id)
        for request_id in list(one.held):
            await self.finish(one, request_id, True, False)
        for request_id in list(one.completing):
            await self.settle(one, request_id)


def _failed() -> End:
    return End(State.FAILED, "error", error=ErrorInfo("endpoint_error", "no"))
