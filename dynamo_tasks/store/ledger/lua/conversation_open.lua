-- conversation_open: a response begins in a conversation, and will add its items; no other one may meanwhile. Safe to
--   repeat.
--
-- KEYS   1 object
-- @args base, id, owner, request, changes
--   request: id of the response's request; changes: as of the items that the response knows
-- returns 'OK' | 'GONE' there is none, or it is another owner's | 'LOCKED' another response goes on, or the items have
--         changed
-- @include clock, conversations, numbers

if redis.call('HGET', KEYS[1], 'owner') ~= owner then return 'GONE' end
local _, _, state = parts_of(id)
local r = redis.call('HMGET', state, 'open', 'changes')
if r[1] == request then return 'OK' end
if r[1] or (r[2] or '0') ~= changes then return 'LOCKED' end
redis.call('HSET', state, 'open', request, 'since', int(now_ms()))
redis.call('ZADD', base .. 'conv-open', int(now_ms()), id .. ' ' .. request)
live_like(KEYS[1], id)
return 'OK'
