#!lua flags=allow-oom
-- conversation_remove: an item of a conversation is deleted.
--
-- KEYS   1 object
-- @args base, id, owner, item
-- returns 'OK' | 'GONE' there is no conversation, or it is another owner's | 'UNKNOWN' it has no such item
-- @include conversations

if redis.call('HGET', KEYS[1], 'owner') ~= owner then return 'GONE' end
local items, order, state = parts_of(id)
local bytes = redis.call('HSTRLEN', items, item)
if redis.call('HDEL', items, item) == 0 then return 'UNKNOWN' end
redis.call('HINCRBY', state, 'bytes', -bytes)
redis.call('ZREM', order, item)
redis.call('HINCRBY', state, 'changes', 1)
live_like(KEYS[1], id)
return 'OK'
