-- steps: the priority steps of the most urgent requests that wait for components, and of those that they run. Changes
-- nothing.
--
-- KEYS   1 queued
-- @args base, ...
--   ...: component, its queue's key
-- returns step of what waits, step of what runs, of each component in turn; 9 where there is nothing
-- @include components, messages, wait_queue

-- As many are looked at one by one; where more wait, lists and wait queues say it: those have one priority each.
local FEW, MOST = 64, 256
local LAST = 9

local function step_of(name) return tonumber(string.match(name or '', '\6\22(%d+)$') or '0') end

local function least(ids)
  local found = LAST
  for _, id in ipairs(ids) do
    found = math.min(found, step_of(redis.call('HGET', base .. 'req:' .. id, F.suffix) or ''))
    if found == 0 then break end
  end
  return found
end

-- Messages of cancelled requests lie in a list until a worker takes them.
local function is_live(list, waits)
  for at = 1, WINDOW do
    local message = redis.call('LINDEX', list, -at)
    if not message then return false end
    local id = id_of(message)
    if id and redis.call('SISMEMBER', waits, id) == 1 then return true end
  end
  return true
end

local function step_of_many(component, queue, waits)
  local rules = wait_queue()
  for _, list in ipairs(rules.lists_up_to(queue .. '\6\22' .. LAST)) do
    local late = queue .. '.late' .. string.sub(list, #queue + 1)
    for _, one in ipairs({ list, late }) do
      if redis.call('EXISTS', rules.waiting_key(component, one)) == 1 or is_live(one, waits) then return step_of(one) end
    end
  end
  return least(redis.call('SRANDMEMBER', waits, FEW)) -- they wait in queues of single instances
end

local out = {}
for at = REST, #ARGV, 2 do
  local component, waits = ARGV[at], waiting_of(ARGV[at])
  local few = redis.call('SCARD', waits) <= FEW
  out[#out + 1] = few and least(redis.call('SMEMBERS', waits)) or step_of_many(component, ARGV[at + 1], waits)
  out[#out + 1] = least(redis.call('SRANDMEMBER', running_of(component), MOST))
end
return out
