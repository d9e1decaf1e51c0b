-- inherit: messages in the own queue of a dead instance go to the front of the component's queue, in their order.
--
-- KEYS   1 list of the instance, 2 list of the component
-- ARGV   1 base
-- returns number of messages
local n = 0
while true do
  local message = redis.call('LPOP', KEYS[1])
  if not message then return n end
  redis.call('RPUSH', KEYS[2], message)
  n = n + 1
end
