"""What is taken out of the ledger's scripts, one at a time: its machine must notice each."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A script or what it includes, a check or a write of it, and what stands there instead."""

    file: str
    text: str
    replacement: str

    @property
    def name(self) -> str:
        """The same wherever it stands in the list."""
        digest = hashlib.sha256("\n".join(self).encode()).hexdigest()
        return f"{self.file.removeprefix('lib/')}-{digest[:6]}"


ALIVE = "redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1"
ABANDONED = "redis.call('ZADD', base .. 'timers', now_ms() + (tonumber(r.abandon_after) or 5000), 'a:' .. id)"
TAKEN_TOO_EARLY = """= r.state == 'RUNNING' and of_running() or nil
  if r.state == 'RUNNING' and not refused then take_from_the_dead('') end"""
MUTANTS: list[Mutant] = [
    Mutant("claim", "if r.owner == lease and r.nonce == nonce then", "if false then"),
    Mutant("claim", "if r.settled == '1' then return { 'DUPLICATE' } end", ""),
    Mutant("claim", f"  if {ALIVE} then\n", "  if false then\n"),
    Mutant("claim", "redis.call('ZADD', base .. 'timers', tonumber(r.deadline) + 1000, 'd:' .. id)", ""),
    Mutant("claim", "  redis.call('ZREM', base .. 'queued', id)\n  redis.call('HSET'", "  redis.call('HSET'"),
    Mutant("claim", "  redis.call('HSET', KEYS[1], F.owner, lease)\n", ""),
    Mutant("lib/owners", "  redis.call('SADD', base .. 'leases', lease)\n", ""),
    Mutant("lib/owners", "  redis.call('SADD', base .. 'owned:' .. lease, id)\n", ""),
    Mutant("finish", "  redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    Mutant("finish", "redis.call('PEXPIRE', KEYS[1], RECORD_TTL)\n", ""),
    Mutant("finish", "redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))\n", ""),
    Mutant("finish", "document_ends(id, r, RECORD_TTL)\n", ""),
    Mutant("lib/unowned", "  document_ends(id, r, RECORD_TTL)\n", ""),
    Mutant("revive", "if r.document then redis.call('PERSIST', document_of(id)) end\n", ""),
    Mutant("purge", "redis.call('DEL', document_of(id))\n", ""),
    Mutant("keep", "not TERMINAL[r.state] or not r.document or left <= 0", "not r.state"),
    Mutant("finish", "if result_key ~= '' then", "if false then"),
    Mutant("cancel", "if not r.state or TERMINAL[r.state] then", "if not r.state then"),
    Mutant("release", "redis.call('ZADD', base .. 'queued', now, id)\n", ""),
    Mutant("requeue", "redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    Mutant("requeue", "  redis.call('ZADD', base .. 'queued', tonumber(r.created) or now_ms(), id)\n", ""),
    Mutant("requeue", "  redis.call('HDEL', KEYS[1], F.owner)\n  if r.settled", "  if r.settled"),
    Mutant("requeue", "if r.ignore_result ~= '1' then send_again() end", ""),
    Mutant("lost_message", "redis.call('RPUSH', list, r.message)", ""),
    Mutant("settle", "if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end", ""),
    Mutant("revive", "redis.call('DEL', KEYS[2])\n", ""),
    Mutant("revive", "redis.call('PERSIST', KEYS[1])\n", ""),
    Mutant("lib/readers", "  redis.call('SADD', base .. 'reads:' .. reader, id)\n", ""),
    Mutant("detach", ABANDONED, ""),
    Mutant("submit", "    redis.call('SADD', base .. 'reads:' .. reader, id)\n", ""),
    Mutant("submit", "redis.call('ZADD', base .. 'queued', now, id)\n", ""),
    Mutant("submit", "if ends > 0 then redis.call('ZADD', base .. 'timers', ends, 'd:' .. id) end", ""),
    Mutant("submit", "known_digest == digest and 'JOINED' or 'CONFLICT'", "'JOINED'"),
    Mutant("cancel", "if guard == 'due' then", "if false then"),
    Mutant("expire", "if state == 'RUNNING' then return 'RUNNING' end", ""),
    Mutant("lib/unowned", "  redis.call('PEXPIRE', record, RECORD_TTL)\n", ""),
    Mutant("lib/unowned", "  redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))\n", ""),
    Mutant("lib/unowned", "  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)\n", ""),
    Mutant("finish", "redis.call('SREM', running_of(component), id)\n", ""),
    Mutant("release", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    Mutant("requeue", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    Mutant("preempt", "redis.call('SREM', running_of(component), id)\n", ""),
    Mutant("preempt", "redis.call('SREM', base .. 'owned:' .. lease, id)\n", ""),
    Mutant("preempt", "redis.call('ZADD', base .. 'queued', tonumber(r.created) or now, id)\n", ""),
    Mutant("preempt", "redis.call('RPUSH', queue .. (r.suffix or ''), r.message)\n", ""),
    Mutant("preempt", "F.nonce, F.expires)", "F.nonce)"),
    Mutant("release", "F.nonce, F.expires)", "F.nonce)"),
    Mutant("preempt", "if r.state == 'QUEUED' and r.epoch == epoch then return 'OK' end", ""),
    Mutant("preempt", " or r.owner ~= lease or r.epoch ~= epoch then", " then"),
    Mutant("forward", "redis.call('SREM', running_of(component_of(r.endpoint)), id)\n", ""),
    Mutant("lib/unowned", "    redis.call('SREM', waiting_of(component), id)\n", ""),
    Mutant("claim", "redis.call('SMOVE', waiting_of(component), running_of(component), id) == 0", "true"),
    Mutant("claim", "if r.endpoint and component_of(r.endpoint) ~= component then", "if false then"),
    Mutant("claim", "  if r.state == 'RUNNING' then take_from_the_dead(previous) end\n", ""),
    Mutant("claim", "= r.state == 'RUNNING' and of_running() or nil", TAKEN_TOO_EARLY),
    Mutant("purge", "  redis.call('RPUSH', notes, cmsgpack.pack({ id, r.queue }))\n", ""),
    Mutant("erase", "wanted[id_of(message) or '']", "false"),
    Mutant("erase", "wanted[id_of(message) or '']", "true"),
    Mutant("erase", "if job.first then redis.call('RPUSH', KEYS[2], cmsgpack.pack(job)) end", ""),
    Mutant("lib/settled", "  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end\n", ""),
]  # fmt: skip
