#!lua flags=allow-oom
-- scale: how many instances of a component are wanted; within its bounds, and not against somebody's hand.
--
-- KEYS   1 scale
-- @args component, wanted, by, lead, channel
--   wanted: a number, '' = what is automatic decides again; by: who says so; lead: name of the `serve` that decides, ''
--   = a person does; channel: of the registry
-- returns {'OK', wanted before, by whom}
--         {'BOUNDS'}  its bounds do not allow that
--         {'HAND'}    somebody's hand goes before
--         {'LEAD'}    another `serve` decides now
--         {'TURN', other}  another component has the device that both share; a hand takes it from all but another hand
-- @include clock, turns

local scale, field = KEYS[1], component .. ':'
local all = scaled(scale)
local mine = all[component] or {}
local before, said, bounds = mine.wanted or '', mine.by or '', mine.bounds
local function put(name, number, who)
  redis.call('HSET', scale, name .. ':wanted', number, name .. ':by', who, name .. ':since', string.format('%.0f', now_ms()))
end

if lead ~= '' then
  if said == 'hand' and before ~= '' then return { 'HAND' } end
  local holder, ends = string.match(redis.call('HGET', scale, '@lead:' .. unit_of(all, component)) or '', '^(%S+) (%d+)$')
  if holder ~= lead or tonumber(ends) < now_ms() then return { 'LEAD' } end
end
if wanted == '' then
  redis.call('HDEL', scale, field .. 'wanted', field .. 'by', field .. 'since')
else
  if bounds then
    local most = bounds.max or 0
    if tonumber(wanted) < (bounds.min or 0) or (most > 0 and tonumber(wanted) > most) then return { 'BOUNDS' } end
  end
  if tonumber(wanted) > 0 then
    local others = rivals(all, component)
    for _, name in ipairs(others) do
      local one = all[name]
      if (tonumber(one.wanted or '') or 0) > 0 and (lead ~= '' or one.by == 'hand') then return { 'TURN', name } end
    end
    for _, name in ipairs(others) do
      if (tonumber(all[name].wanted or '') or 0) > 0 then put(name, 0, 'turn') end
    end
  end
  put(component, wanted, by)
end
redis.call('PUBLISH', channel, '=' .. component)
return { 'OK', before, said }
