-- place: where a QUEUED request stands. Changes nothing.
--
-- KEYS   1 record
-- @args base, id
-- returns {}  it is not QUEUED
--         {place, component, ms until it may begin}  place: from 1, by the order in which workers take requests
-- @include clock, components, late, numbers, records, wait_queue

local r = fields(KEYS[1], F.state, F.endpoint, F.queue, F.suffix, F.message, F.not_before)
if r.state ~= 'QUEUED' then return {} end
local component, list = component_of(r.endpoint), (r.queue or '') .. (r.suffix or '')
local waiting = wait_queue()

-- Workers pop from the end of a list; behind it stand those of its wait queue.
local function before_in(one)
  local length = redis.call('LLEN', one)
  if late_of(r.queue or '') and redis.call('LPOS', one, '') then length = length - 1 end -- the bell
  if one ~= list then return length + redis.call('ZCARD', waiting.waiting_key(component, one)) end
  local at = r.message and redis.call('LPOS', one, r.message)
  if at then return length - 1 - at end
  return length + (redis.call('ZRANK', waiting.waiting_key(component, one), id) or 0)
end

local before = 0
for _, one in ipairs(waiting.lists_up_to(list)) do before = before + before_in(one) end
return { int(before + 1), component, int(math.max(0, (tonumber(r.not_before) or 0) - now_ms())) }
