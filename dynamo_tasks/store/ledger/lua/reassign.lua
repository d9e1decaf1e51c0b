-- reassign: what waits for an instance that is gone goes to the component: messages in its own queue to the front of
--   the component's, in their order; who stands in the wait queue behind that one keeps its tag in the component's wait
--   queue. Their records follow.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 list of the instance, 2 list of the component
-- @args base, own_queue, shared, component
--   own_queue: queue key of the instance, shared: of the component (both without priority)
-- returns number of requests
-- @include messages, wait_queue

local n, waiting = 0, wait_queue()

local function follow(id)
  local record = base .. 'req:' .. id
  if redis.call('HGET', record, F.queue) == own_queue then redis.call('HSET', record, F.queue, shared) end
  n = n + 1
end

local message = redis.call('LPOP', KEYS[1])
while message do
  redis.call('RPUSH', KEYS[2], message)
  follow(id_of(message) or '')
  message = redis.call('LPOP', KEYS[1])
end
local standing = waiting.waiting_key(component, KEYS[1])
for _, id in ipairs(redis.call('ZRANGE', standing, 0, -1)) do
  waiting.enqueue(component, KEYS[2], id, tonumber(redis.call('ZSCORE', standing, id)))
  redis.call('LPOP', waiting.shadow_of(KEYS[1]))
  follow(id)
end
redis.call('DEL', standing)
waiting.clear(component, KEYS[1])
admit(component)
return n
