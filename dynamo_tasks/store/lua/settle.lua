#!lua flags=allow-oom
-- settle: Celery's tail (result, links, chord) is done; a redelivery has nothing left to do.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id
-- returns 1 noted, 0 no record
local r = fields(KEYS[1], 'st', 'own')
if not r.st then return 0 end
redis.call('HSET', KEYS[1], 'set', '1')
redis.call('HDEL', KEYS[1], 'out', 'msg', 'non')
if r.own then redis.call('SREM', base .. 'owned:' .. r.own, ARGV[2]) end
return 1
