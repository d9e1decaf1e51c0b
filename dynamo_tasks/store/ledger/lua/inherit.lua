-- inherit: what waits for an instance that is gone goes to the component: messages in its own queue to the front of the
--   component's, in their order; who stands in line behind that one keeps its tag in the component's line. Their records
--   follow.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 list of the instance, 2 list of the component
-- ARGV   1 base, 2 queue key of the instance, 3 of the component (both without priority), 4 component
-- returns number of requests
-- @include base, messages, wait_queue

local component, n, line = ARGV[4], 0, the_line()

local function follow(id)
  local record = base .. 'req:' .. id
  if redis.call('HGET', record, F.queue) == ARGV[2] then redis.call('HSET', record, F.queue, ARGV[3]) end
  n = n + 1
end

local message = redis.call('LPOP', KEYS[1])
while message do
  redis.call('RPUSH', KEYS[2], message)
  follow(id_of(message) or '')
  message = redis.call('LPOP', KEYS[1])
end
local standing = line.line_of(component, KEYS[1])
for _, id in ipairs(redis.call('ZRANGE', standing, 0, -1)) do
  line.stand(component, KEYS[2], id, tonumber(redis.call('ZSCORE', standing, id)))
  redis.call('LPOP', line.shadow_of(KEYS[1]))
  follow(id)
end
redis.call('DEL', standing)
line.clear(component, KEYS[1])
admit(component)
return n
