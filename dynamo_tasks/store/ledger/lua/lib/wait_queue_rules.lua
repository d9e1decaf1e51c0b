-- The rules of the wait queues; see wait_queue() in wait_queue.lua, whose definitions they use.
--
-- A queue is kombu's list, from which workers pop, and behind it a wait queue for each component, ordered by fairness: a
-- zset of ids by tag. At most WINDOW messages are in a list before others stand in the wait queue, so a list stays
-- short, and who is next is decided as late as possible. Recovery pushes to the front of the list itself.
-- -2^52: below every tag, and with milliseconds added still a whole number of a double.
local FRONT = -4503599627370496
local SEP = '\6\22'
local STEPS = { '0', '3', '6', '9' }

local function waiting_key(component, list) return base .. 'line:' .. component .. ':' .. list end

local function tags_of(component, list) return base .. 'tags:' .. component .. ':' .. list end

local function split_list(list)
  local queue, step = string.match(list, '^(.*)' .. SEP .. '(%d+)$')
  return queue or list, step or '0'
end

local function is_late_list(list) return late_of((split_list(list))) ~= nil end

local function list_of(queue, step) return step == '0' and queue or (queue .. SEP .. step) end

-- As long as the wait queues of a queue: kombu and Flower add the lengths of a queue's lists, and this is one of them.
local function shadow_of(list) return (split_list(list)) .. SEP .. '10' end

-- How many more messages may be in the component's list so that the worker that takes one may also claim it.
local function room_of(component, list)
  local limit = limit_of(component, 'concurrency')
  if not limit then return math.huge end
  local queue, room = split_list(list), limit - redis.call('SCARD', running_of(component))
  for _, step in ipairs(STEPS) do room = room - redis.call('LLEN', list_of(queue, step)) end
  return room
end

-- Start-time fair queueing: a tenant's requests are 1/weight apart, and one that comes anew starts at the present.
local function tag_for(component, list, tenant, weight)
  local known = redis.call('HMGET', tags_of(component, list), 'now', 't:' .. tenant)
  return math.max(tonumber(known[1] or nil) or 0, tonumber(known[2] or nil) or 0) + 1 / (tonumber(weight or nil) or 1)
end

local function enqueue(component, list, id, tag)
  -- Who stands there already keeps the place: a message that came twice must not cost it.
  if redis.call('ZADD', waiting_key(component, list), 'NX', real(tag), id) == 0 then return end
  redis.call('LPUSH', shadow_of(list), '')
  redis.call('SADD', base .. 'lines', component .. ':' .. list)
  any_waits, unlimited = true, false
end

-- In a queue for late binding the list holds what came back from workers, and a bell: an empty message, which wakes a
-- worker that has room. It rings while anybody stands there; that worker rings again once it has taken one.
local function ring(component, list)
  if redis.call('LLEN', list) > 0 or redis.call('EXISTS', waiting_key(component, list)) == 0 then return end
  if room_of(component, list) > 0 then redis.call('LPUSH', list, '') end
end

-- It was taken from its list already, but can't be run: in front of all others, the oldest first.
local function enqueue_in_front(component, list, id, created) enqueue(component, list, id, FRONT + created) end

local function clear(component, list)
  if redis.call('EXISTS', waiting_key(component, list)) == 1 then return end
  redis.call('DEL', tags_of(component, list))
  redis.call('SREM', base .. 'lines', component .. ':' .. list)
end

-- Somebody leaves the wait queue without having been its first: the next one of its tenant takes the place.
local function leave(id, r)
  local component, list = component_of(r.endpoint), (r.queue or '') .. (r.suffix or '')
  if redis.call('ZREM', waiting_key(component, list), id) == 0 then return end
  redis.call('LPOP', shadow_of(list))
  if late_of(r.queue or '') then redis.call('HDEL', tags_of(component, list), 's:' .. id) end
  if redis.call('HEXISTS', tags_of(component, list), 't:' .. (r.tenant or '')) == 1 then
    redis.call('HINCRBYFLOAT', tags_of(component, list), 't:' .. (r.tenant or ''), real(-1 / (tonumber(r.weight) or 1)))
  end
  clear(component, list)
end

local function enter(id, r, component, list)
  local late = late_of(r.queue)
  if not late and redis.call('EXISTS', waiting_key(component, list)) == 0 and redis.call('LLEN', list) < WINDOW
    and room_of(component, list) > 0 then
    redis.call('LPUSH', list, r.message)
    return
  end
  local tenant = r.tenant or ''
  local tag = tag_for(component, list, tenant, r.weight)
  redis.call('HSET', tags_of(component, list), 't:' .. tenant, real(tag))
  enqueue(component, list, id, tag)
  if late then
    -- How many are taken before it, by how many there were to be taken, is its age.
    local tags = tags_of(component, list)
    local known, length = redis.call('HMGET', tags, 'taken', 'most'), redis.call('ZCARD', waiting_key(component, list))
    redis.call('HSET', tags, 's:' .. id, known[1] or 0, 'most', math.max(tonumber(known[2] or nil) or 0, length))
    ring(component, list)
  end
end

-- The first of a wait queue steps into the list. Returns whether a message was pushed; nil where nobody stands there.
local function promote(component, list)
  local first = redis.call('ZPOPMIN', waiting_key(component, list))
  if #first == 0 then return nil end
  redis.call('LPOP', shadow_of(list))
  local id, tag = first[1], tonumber(first[2])
  local r = fields(base .. 'req:' .. id, F.message, F.tenant)
  -- Who was put in front stands outside of the order: its tag says nothing of the present.
  if tag > 0 then
    local tags, tenant = tags_of(component, list), 't:' .. (r.tenant or '')
    redis.call('HSET', tags, 'now', real(tag))
    -- Its tenant's last: the next one would start at the present all the same, so that nothing needs to be kept of it.
    if (tonumber(redis.call('HGET', tags, tenant) or nil) or 0) <= tag then redis.call('HDEL', tags, tenant) end
  end
  if not r.message then return false end -- Redis forgot it: its place goes to the next one
  redis.call('LPUSH', list, r.message)
  return true
end

-- {component, list, step} of all wait queues of a component (of all components for nil), higher priorities first.
local function wait_queues_of(component)
  local found = {}
  for _, member in ipairs(redis.call('SMEMBERS', base .. 'lines')) do
    local whose, list = string.match(member, '^([^:]*):(.*)$')
    if not component or whose == component then
      local _, step = split_list(list)
      found[#found + 1] = { whose, list, tonumber(step) }
    end
  end
  table.sort(found, function(a, b)
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[2] < b[2]
  end)
  return found
end

-- Nobody takes late any more: all of it goes to the queue of all, in its order.
local function abandon_late(component, list)
  local queue, step = split_list(list)
  local shared = late_of(queue)
  local to = list_of(shared, step)
  local message = redis.call('LPOP', list)
  while message do
    if message ~= '' then redis.call('RPUSH', to, message) end
    message = redis.call('LPOP', list)
  end
  for _, id in ipairs(redis.call('ZRANGE', waiting_key(component, list), 0, -1)) do
    redis.call('HSET', base .. 'req:' .. id, F.queue, shared)
    enqueue(component, to, id, tonumber(redis.call('ZSCORE', waiting_key(component, list), id)))
    redis.call('LPOP', shadow_of(list))
  end
  redis.call('DEL', waiting_key(component, list))
  clear(component, list)
end

local function admit_all(component)
  for _, entry in ipairs(wait_queues_of(component)) do
    local whose, list = entry[1], entry[2]
    local length = redis.call('LLEN', list)
    -- Half of a list at a time: a look at every claim, work at every eighth.
    if is_late_list(list) then
      ring(whose, list)
    elseif length <= WINDOW / 2 then
      local room = math.min(WINDOW - length, room_of(whose, list))
      while room > 0 do
        local pushed = promote(whose, list)
        if pushed == nil then break end
        if pushed then room = room - 1 end
      end
      clear(whose, list)
    end
  end
end

-- The lists of a queue in which somebody would be served before, or together with, who stands in `list`.
local function lists_up_to(list)
  local queue, mine = split_list(list)
  local out = {}
  for _, step in ipairs(STEPS) do
    out[#out + 1] = list_of(queue, step)
    if step == mine then return out end
  end
  return out
end

-- How many stand in a wait queue before a newcomer of a tenant.
local function before(component, list, tenant, weight)
  return redis.call('ZCOUNT', waiting_key(component, list), '-inf', real(tag_for(component, list, tenant, weight)))
end

return {
  enter = enter, leave = leave, admit = admit_all, enqueue = enqueue, enqueue_in_front = enqueue_in_front, clear = clear,
  abandon_late = abandon_late, is_late_list = is_late_list, ring = ring, room_of = room_of, tags_of = tags_of,
  waiting_key = waiting_key, shadow_of = shadow_of, wait_queues_of = wait_queues_of, lists_up_to = lists_up_to,
  before = before,
}
