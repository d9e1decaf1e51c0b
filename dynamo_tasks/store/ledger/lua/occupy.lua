#!lua flags=allow-oom
-- occupy: a `serve` may start or wake processes of a component that shares a device by turns: only while it is wanted, and
-- nothing of the others on that device is awake. What it has then is noted in the same step, so that two never both may.
--
-- KEYS   1 scale
-- @args component, name, fleet, ttl
--   name: of the `serve`; fleet: what it has then (JSON); ttl: ms for which fleets are believed
-- returns 1 if it may, else 0
-- @include clock, turns

local all, now = scaled(KEYS[1]), now_ms()
local mine = all[component]
if not mine or (tonumber(mine.wanted or '') or 0) < 1 then return 0 end
for _, other in ipairs(rivals(all, component)) do
  for _, one in pairs(all[other].fleets) do
    local awake = (one.running or 0) + (one.starting or 0) + (one.draining or 0)
    if awake > 0 and now - (one.at or 0) * 1000 <= tonumber(ttl) then return 0 end
  end
end
redis.call('HSET', KEYS[1], component .. ':fleet:' .. name, fleet)
return 1
