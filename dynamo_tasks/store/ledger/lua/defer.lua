-- defer: a message came too early (claim said WAIT): its record keeps it until its time.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 milliseconds to wait, 4 message
-- returns 1 kept, 0 the request has ended
-- @include base, clock, terminal

local state = redis.call('HGET', KEYS[1], F.state)
if not state or TERMINAL[state] then return 0 end
redis.call('HSET', KEYS[1], F.message, ARGV[4])
redis.call('ZADD', base .. 'timers', now_ms() + tonumber(ARGV[3]), 'm:' .. ARGV[2])
return 1
