-- defer: a message came too early (claim said WAIT): its record keeps it until its time.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, wait, message
--   wait: milliseconds
-- returns 1 kept, 0 the request has ended
-- @include clock, terminal

local state = redis.call('HGET', KEYS[1], F.state)
if not state or TERMINAL[state] then return 0 end
redis.call('HSET', KEYS[1], F.message, message)
redis.call('ZADD', base .. 'timers', now_ms() + tonumber(wait), 'm:' .. id)
return 1
