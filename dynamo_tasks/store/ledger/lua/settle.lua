#!lua flags=allow-oom
-- settle: Celery's completion (result, links, chord) is done; a redelivery has nothing left to do.
-- Keeps 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id
-- returns 1 noted, 0 no record, or it has begun again (dead list)
-- @include records, settled, terminal

local r = fields(KEYS[1], F.state, F.owner)
if not TERMINAL[r.state] then return 0 end
redis.call('HSET', KEYS[1], F.settled, '1')
-- Its owner was taken for dead meanwhile, and its message sent again: it lies in a queue yet.
local lies = redis.call('ZREM', base .. 'queued', id) == 1
settled(KEYS[1], lies)
if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
return 1
