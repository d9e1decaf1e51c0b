-- settle: Celery's tail (result, links, chord) is done; a redelivery has nothing left to do.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base
-- returns 1 noted, 0 no record
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'set', '1')
redis.call('HDEL', KEYS[1], 'out')
return 1
