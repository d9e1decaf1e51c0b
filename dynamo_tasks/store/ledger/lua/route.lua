-- route: a router's choice is noted for the others, unless they have noted any that it does not know of yet: then it
--   gets these, and chooses again. So all choices of a component stand in one order, and each knows those before it.
--
-- KEYS   1 stream of the component's choices
-- @args seen, choice, kept, ttl
--   seen: id of the last choice that the router knows, '-' = none; '*' = note it whatever the others did
--   choice: bytes; kept: how many are kept, about; ttl: ms after the last one
-- returns {1, id} noted | {0, entries} of the others after `seen`

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and seen ~= '*' and last[1] ~= seen then
  return { 0, redis.call('XRANGE', KEYS[1], seen == '-' and '-' or '(' .. seen, '+') }
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', kept, '*', 'p', choice)
redis.call('PEXPIRE', KEYS[1], ttl)
return { 1, id }
