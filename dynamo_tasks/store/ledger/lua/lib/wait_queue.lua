-- Requests that wait for a component, and those that it runs. The invariants are in docs/overload.md.
-- @include components, late, numbers, records

local WINDOW = 16

-- Whether nobody stands in any wait queue of the namespace, and no component has a limit: then there is nothing to
-- look at.
local unlimited
local function no_limits_active()
  if unlimited == nil then unlimited = redis.call('EXISTS', base .. 'lines', base .. 'traffic') == 0 end
  return unlimited
end

local any_waits
local function anybody_waits()
  if any_waits == nil then any_waits = not no_limits_active() and redis.call('EXISTS', base .. 'lines') == 1 end
  return any_waits
end

-- A limit of the component as a whole: 'concurrency' or 'max_queue'; nil where it has none.
local function limit_of(component, name)
  if no_limits_active() then return nil end
  return tonumber(redis.call('HGET', base .. 'traffic', component .. ':' .. name) or nil)
end

-- The rules of the wait queues, which most runs do not need: a table of functions that is made when it is asked for.
local rules
local function wait_queue()
  rules = rules or (function()
    -- @include wait_queue_rules
  end)()
  return rules
end

-- A request comes to its queue: into the list, or into the wait queue where others wait. Of r: endpoint,
-- queue, suffix, message, tenant, weight.
local function enter(id, r)
  local component, list = component_of(r.endpoint), r.queue .. (r.suffix or '')
  redis.call('SADD', waiting_of(component), id)
  if anybody_waits() or late_of(r.queue) or limit_of(component, 'concurrency') or redis.call('LLEN', list) >= WINDOW then
    return wait_queue().enter(id, r, component, list)
  end
  redis.call('LPUSH', list, r.message)
end

-- It does not wait any more, and was not the first in its wait queue.
local function leave_wait_queue(id, r)
  if anybody_waits() then wait_queue().leave(id, r) end
end

-- Room was made: the first in the wait queue are promoted (of all components for nil). Called by all that takes from
-- a list or ends a run.
local function admit(component)
  if anybody_waits() then wait_queue().admit(component) end
end
