#!lua flags=allow-oom
-- expire: QUEUED -> EXPIRED: the deadline or Celery's `expires` passed before a worker started it.
-- Keeps 2, 3, 4, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, db, data, error
--   data: payload of the end event; error: JSON
-- returns 'OK' | 'ENDED' | 'GONE' | 'RUNNING' it was started in time
-- @include terminal, unowned

local state = redis.call('HGET', KEYS[1], F.state)
if not state or TERMINAL[state] then
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
  return state and 'ENDED' or 'GONE'
end
if state == 'RUNNING' then return 'RUNNING' end
end_unowned(KEYS[1], KEYS[2], id, db, data, 'EXPIRED', error)
return 'OK'
