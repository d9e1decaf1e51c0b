-- revive: FAILED -> QUEUED for a request that had used up its attempts: from its beginning, all attempts anew.
--   Its log goes with its end; the epochs go on, so that no former owner can write.
-- Keeps 4, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id
-- returns 'OK' | 'NOT' it is not in the dead list | 'GONE' its record, or its message, is past its retention
-- @include base, clock, numbers, records, wait_queue

local id = ARGV[2]
if not redis.call('ZSCORE', base .. 'dead', id) then return 'NOT' end
redis.call('ZREM', base .. 'dead', id)
local r = fields(KEYS[1], 'st', 'own', 'en', 'q', 'qs', 'dmsg', 'tn', 'tw')
if r.st ~= 'FAILED' or not r.dmsg then return 'GONE' end
local list = r.q .. (r.qs or '')
redis.call('DEL', KEYS[2])
-- Celery's tail of its end may still run; it has nothing to settle any more.
if r.own then redis.call('SREM', base .. 'owned:' .. r.own, id) end
redis.call('LREM', list, 0, r.dmsg)
redis.call('HSET', KEYS[1], 'st', 'QUEUED', 'msg', r.dmsg, 'att', '0', 'bar', '0', 'nb', '0', 'dl', '0', 'ex', '0',
  'cr', int(now_ms()), 'set', '0')
redis.call('HDEL', KEYS[1], 'dmsg', 'own', 'non', 'end', 'err', 'out', 'fin', 'stt')
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', base .. 'queued', now_ms(), id)
r.msg = r.dmsg
enter(id, r)
return 'OK'
