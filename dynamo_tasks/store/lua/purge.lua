#!lua flags=allow-oom
-- purge: erases payload and log of a request that has ended; the bare record stays.
-- Keeps 6 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id
-- returns 'OK' | 'GONE' | 'ACTIVE' it has not ended
local state = redis.call('HGET', KEYS[1], 'st')
if not state then return 'GONE' end
if not TERMINAL[state] then return 'ACTIVE' end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], 'msg', 'dmsg', 'out', 'err', 'rnd')
redis.call('ZREM', base .. 'queued', ARGV[2])
redis.call('ZREM', base .. 'dead', ARGV[2])
redis.call('HSET', KEYS[1], 'pur', '1')
return 'OK'
