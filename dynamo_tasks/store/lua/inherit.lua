-- inherit: messages in the own queue of an instance that is gone go to the front of the component's queue, in their
--   order; their records follow.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 list of the instance, 2 list of the component
-- ARGV   1 base, 2 queue key of the instance, 3 of the component (both without priority)
-- returns number of messages
local n = 0
while true do
  local message = redis.call('LPOP', KEYS[1])
  if not message then return n end
  redis.call('RPUSH', KEYS[2], message)
  local id = string.match(message, '"id"%s*:%s*"([^"]+)"')
  local record = base .. 'req:' .. (id or '')
  if redis.call('HGET', record, 'q') == ARGV[2] then redis.call('HSET', record, 'q', ARGV[3]) end
  n = n + 1
end
