-- restore: a plain task's message that a dead instance had fetched goes back to the front of its queue.
--
-- KEYS   1 the instance's unacknowledged messages, 2 their index, 3 queue
-- @args base, tag, message
--   tag: delivery tag
-- returns 1 restored, 0 somebody else did
redis.call('ZREM', KEYS[2], tag)
if redis.call('HDEL', KEYS[1], tag) == 0 then return 0 end
redis.call('RPUSH', KEYS[3], message)
return 1
