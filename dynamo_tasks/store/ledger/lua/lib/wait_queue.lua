-- Requests that wait for a component, and those that it runs. The invariants are in docs/overload.md.
-- @include components, numbers, records

local WINDOW = 16

-- Whether nobody stands in any line of the namespace, and no component has a limit: then there is nothing to look at.
local calm
local function all_calm()
  if calm == nil then calm = redis.call('EXISTS', base .. 'lines', base .. 'traffic') == 0 end
  return calm
end

local somebody
local function anybody_in_line()
  if somebody == nil then somebody = not all_calm() and redis.call('EXISTS', base .. 'lines') == 1 end
  return somebody
end

-- A limit of the component as a whole: 'concurrency' or 'max_queue'; nil where it has none.
local function limit_of(component, name)
  if all_calm() then return nil end
  return tonumber(redis.call('HGET', base .. 'traffic', component .. ':' .. name) or nil)
end

-- The rules of the lines, which most runs do not need: a table of functions that is made when it is asked for.
local rules
local function the_line()
  rules = rules or (function()
    -- @include fairness
  end)()
  return rules
end

-- A request comes to its queue: into the list, or into the line where others wait. Of r: endpoint,
-- queue, suffix, message, tenant, weight.
local function enter(id, r)
  local component, list = component_of(r.endpoint), r.queue .. (r.suffix or '')
  redis.call('SADD', waiting_of(component), id)
  if anybody_in_line() or limit_of(component, 'concurrency') or redis.call('LLEN', list) >= WINDOW then
    return the_line().enter(id, r, component, list)
  end
  redis.call('LPUSH', list, r.message)
end

-- It does not wait any more, and was not the first in its line.
local function leave_line(id, r)
  if anybody_in_line() then the_line().leave(id, r) end
end

-- Room was made: the first in line step up (of all components for nil). Called by whatever takes from a list or ends a run.
local function admit(component)
  if anybody_in_line() then the_line().admit(component) end
end
