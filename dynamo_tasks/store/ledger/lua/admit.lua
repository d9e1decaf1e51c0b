-- admit: the first in every wait queue are promoted where there is room. The scripts that make room do it themselves;
--   this is for the case that a worker died between its pop and its claim, or that a list was emptied by others.
--
--   A few of those that limits count are compared with their records: what another release did not count, or counted
--   and did not take back, is mended within moments.
--
-- @args base
-- returns 1
-- @include components, wait_queue

local SAMPLE = 3

local function mend(key, state)
  for _, id in ipairs(redis.call('SRANDMEMBER', key, SAMPLE)) do
    if redis.call('HGET', base .. 'req:' .. id, F.state) ~= state then redis.call('SREM', key, id) end
  end
end

for _, field in ipairs(redis.call('HKEYS', base .. 'traffic')) do
  local component = string.match(field, '^(.*):[^:]*$')
  mend(running_of(component), 'RUNNING')
  mend(waiting_of(component), 'QUEUED')
end
-- Whether an instance of a component takes late: its card says how large its steps are, and that it reports its cache.
local function takes_late(component)
  for _, member in ipairs(redis.call('SMEMBERS', base .. 'instances')) do
    if string.sub(member, 1, #component + 1) == component .. ':' then
      local info = redis.call('GET', base .. 'inst:' .. member)
      if info and string.find(info, '"kv_events":true', 1, true) and string.find(info, '"step_tokens":%d') then
        return true
      end
    end
  end
end

if anybody_waits() then
  for _, entry in ipairs(wait_queue().wait_queues_of(nil)) do
    local list = entry[2]
    if wait_queue().is_late_list(list) and not takes_late(entry[1]) then
      wait_queue().abandon_late(entry[1], list)
    end
  end
end
admit(nil)
return 1
