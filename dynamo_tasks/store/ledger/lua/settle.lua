#!lua flags=allow-oom
-- settle: Celery's tail (result, links, chord) is done; a redelivery has nothing left to do.
-- Keeps 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id
-- returns 1 noted, 0 no record, or it has begun again (dead list)
-- @include base, records, settled, terminal

local r = fields(KEYS[1], F.state, F.owner)
if not TERMINAL[r.state] then return 0 end
redis.call('HSET', KEYS[1], F.settled, '1')
redis.call('ZREM', base .. 'queued', ARGV[2])
settled(KEYS[1])
if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, ARGV[2]) end
return 1
