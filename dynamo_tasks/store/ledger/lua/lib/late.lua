-- The component's queue, where this is its queue for late binding, "<queue>.late": everything stands in its wait queue,
-- from which workers choose (docs/routing.md). nil for any other queue, which somebody may call so.
local function late_of(queue)
  if string.sub(queue, -5) == '.late' and string.find(queue, '|', 1, true) then return string.sub(queue, 1, -6) end
end
