-- @include late
-- Id of the request of a message. What stands in front of it may be large: a pattern would be tried at each byte of it.
local function id_of(message)
  local at = string.find(message, '"id"', 1, true)
  return at and string.match(message, '^"id"%s*:%s*"([^"]+)"', at)
end

-- An instance's own queue is "<queue>.<endpoint>-<lease>": the component's queue, and the lease where it is such a one.
-- From that for late binding, too, what comes back goes to the front of the component's.
local function shared_queue(queue)
  local shared, lease = string.match(queue, '^(.*|[^.|]*)%.[^.|]*%-(%x+)$')
  return shared or late_of(queue) or queue, lease
end
