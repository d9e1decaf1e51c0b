"""The ledger's machine notices what is taken out of a script: else it would show nothing."""

from __future__ import annotations

import pytest

from tests.property.ledger_parts import simulated_clock
from tests.property.test_ledger_machine import NAMES, connected, run_machine

__all__ = ["connected"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Runs are random: one in some dozens meets none that shows the rarest of them. Other failures count at once.
    pytest.mark.flaky(reruns=2, only_rerun="DID NOT RAISE"),
]

ALIVE = "redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1"
TAKEN_TOO_EARLY = """= r.state == 'RUNNING' and of_running() or nil
  if r.state == 'RUNNING' and not refused then take_from_the_dead('') end"""
# Script or what it includes, a check or a write of it, what is there instead.
MUTANTS: list[tuple[str, str, str]] = [
    ("claim", "if r.owner == lease and r.nonce == nonce then", "if false then"),
    ("claim", "if r.settled == '1' then return { 'DUPLICATE' } end", ""),
    ("claim", f"  if {ALIVE} then\n", "  if false then\n"),
    ("claim", "redis.call('ZADD', base .. 'timers', tonumber(r.deadline) + 1000, 'd:' .. id)", ""),
    ("claim", "  redis.call('ZREM', base .. 'queued', id)\n  redis.call('HSET'", "  redis.call('HSET'"),
    ("claim", "  redis.call('HSET', KEYS[1], F.owner, lease)\n", ""),
    ("lib/owners", "  redis.call('SADD', base .. 'leases', lease)\n", ""),
    ("lib/owners", "  redis.call('SADD', base .. 'owned:' .. lease, id)\n", ""),
    ("finish", "  redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    ("finish", "redis.call('PEXPIRE', KEYS[1], RECORD_TTL)\n", ""),
    ("finish", "redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))\n", ""),
    ("finish", "document_ends(id, r, RECORD_TTL)\n", ""),
    ("lib/unowned", "  document_ends(id, r, RECORD_TTL)\n", ""),
    ("revive", "if r.document then redis.call('PERSIST', document_of(id)) end\n", ""),
    ("purge", "redis.call('DEL', document_of(id))\n", ""),
    ("keep", "not TERMINAL[r.state] or not r.document or left <= 0", "not r.state"),
    ("finish", "if result_key ~= '' then", "if false then"),
    ("cancel", "if not r.state or TERMINAL[r.state] then", "if not r.state then"),
    ("release", "redis.call('ZADD', base .. 'queued', now, id)\n", ""),
    ("requeue", "redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    ("requeue", "  redis.call('ZADD', base .. 'queued', tonumber(r.created) or now_ms(), id)\n", ""),
    ("requeue", "  redis.call('HDEL', KEYS[1], F.owner)\n  if r.settled", "  if r.settled"),
    ("requeue", "if r.ignore_result ~= '1' then send_again() end", ""),
    ("lost_message", "redis.call('RPUSH', list, r.message)", ""),
    ("settle", "if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end", ""),
    ("revive", "redis.call('DEL', KEYS[2])\n", ""),
    ("revive", "redis.call('PERSIST', KEYS[1])\n", ""),
    ("lib/readers", "  redis.call('SADD', base .. 'reads:' .. reader, id)\n", ""),
    ("detach", "redis.call('ZADD', base .. 'timers', now_ms() + (tonumber(r.abandon_after) or 5000), 'a:' .. id)", ""),
    ("submit", "    redis.call('SADD', base .. 'reads:' .. reader, id)\n", ""),
    ("submit", "redis.call('ZADD', base .. 'queued', now, id)\n", ""),
    ("submit", "if ends > 0 then redis.call('ZADD', base .. 'timers', ends, 'd:' .. id) end", ""),
    ("submit", "known_digest == digest and 'JOINED' or 'CONFLICT'", "'JOINED'"),
    ("cancel", "if guard == 'due' then", "if false then"),
    ("expire", "if state == 'RUNNING' then return 'RUNNING' end", ""),
    ("lib/unowned", "  redis.call('PEXPIRE', record, RECORD_TTL)\n", ""),
    ("lib/unowned", "  redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))\n", ""),
    ("lib/unowned", "  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)\n", ""),
    ("finish", "redis.call('SREM', running_of(component), id)\n", ""),
    ("release", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    ("requeue", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    ("preempt", "redis.call('SREM', running_of(component), id)\n", ""),
    ("preempt", "redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    ("preempt", "redis.call('ZADD', base .. 'queued', tonumber(r.created) or now, id)\n", ""),
    ("preempt", "redis.call('RPUSH', queue .. (r.suffix or ''), r.message)\n", ""),
    ("preempt", "F.nonce, F.expires)", "F.nonce)"),
    ("release", "F.nonce, F.expires)", "F.nonce)"),
    ("preempt", "if r.state == 'QUEUED' and r.epoch == epoch then return 'OK' end", ""),
    ("preempt", " or r.owner ~= lease or r.epoch ~= epoch then", " then"),
    ("forward", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    ("lib/unowned", "    redis.call('SREM', waiting_of(component), id)\n", ""),
    ("claim", "redis.call('SMOVE', waiting_of(component), running_of(component), id) == 0", "true"),
    ("claim", "if r.endpoint and component_of(r.endpoint) ~= component then", "if false then"),
    ("claim", "  if r.state == 'RUNNING' then take_from_the_dead(previous) end\n", ""),
    ("claim", "= r.state == 'RUNNING' and of_running() or nil", TAKEN_TOO_EARLY),
    ("purge", "  redis.call('RPUSH', notes, cmsgpack.pack({ id, r.queue }))\n", ""),
    ("erase", "wanted[id_of(message) or '']", "false"),
    ("erase", "wanted[id_of(message) or '']", "true"),
    ("erase", "if job.first then redis.call('RPUSH', KEYS[2], cmsgpack.pack(job)) end", ""),
    ("lib/settled", "  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end\n", ""),
]  # fmt: skip


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m[0]}-{n}" for n, m in enumerate(MUTANTS)])
def test_the_machine_notices(mutant: tuple[str, str, str]) -> None:
    with simulated_clock(NAMES, mutant), pytest.raises(AssertionError):
        run_machine(2400, 60, seeded=False, shrink=False)  # it stops at the first that shows it
