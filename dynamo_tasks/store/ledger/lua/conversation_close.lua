#!lua flags=allow-oom
-- conversation_close: a response that was to add its items to a conversation will not. Safe to repeat.
--
-- KEYS   1 object
-- @args base, id, request
-- returns 1 closed, 0 it was not open
-- @include conversations

local _, _, state = parts_of(id)
local found = redis.call('HGET', state, 'open') == request
if found then close_response(id, request) else redis.call('ZREM', base .. 'conv-open', id .. ' ' .. request) end
return found and 1 or 0
