-- restore: a plain task's message that a dead instance had fetched goes back to the front of its queue.
--
-- KEYS   1 the instance's unacknowledged messages, 2 their index, 3 queue
-- ARGV   1 base, 2 delivery tag, 3 message
-- returns 1 restored, 0 somebody else did
redis.call('ZREM', KEYS[2], ARGV[2])
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('RPUSH', KEYS[3], ARGV[3])
return 1
