#!lua flags=allow-oom
-- purge: erases payload and log of a request that has ended; the bare record stays. Who may purge may not always take
--   from queues, so a message that lies in one yet is noted for `erase`. Celery's completion goes with it, unless an
--   owner is at it.
-- Keeps 6 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, kept
--   kept: ms for which the bare record stays; 0 = as long as it had
-- returns 'OK' | 'GONE' | 'ACTIVE' it has not ended
-- @include documents, records, settled, terminal, wait_queue

local notes = base .. 'erase'
local r = fields(KEYS[1], F.state, F.owner, F.settled, F.endpoint, F.queue, F.suffix, F.tenant, F.weight)
if not r.state then return 'GONE' end
if not TERMINAL[r.state] then return 'ACTIVE' end
if r.queue then
  leave_wait_queue(id, r)
  redis.call('RPUSH', notes, cmsgpack.pack({ id, r.queue }))
  redis.call('PEXPIRE', notes, RECORD_TTL)
end
redis.call('DEL', KEYS[2])
redis.call('DEL', document_of(id))
redis.call('HDEL', KEYS[1], F.message, F.dead_message, F.result, F.error, F.render, F.document)
redis.call('ZREM', base .. 'queued', id)
redis.call('ZREM', base .. 'dead', id)
redis.call('HSET', KEYS[1], F.purged, '1')
if not r.owner or r.settled == '1' then
  redis.call('HSET', KEYS[1], F.settled, '1')
  settled(KEYS[1])
  local left = tonumber(kept)
  if left > 0 and redis.call('PTTL', KEYS[1]) > left then redis.call('PEXPIRE', KEYS[1], left) end
end
return 'OK'
