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
admit(nil)
return 1
