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
-- @include clock

local scale, field = KEYS[1], component .. ':'
local function get(name) return redis.call('HGET', scale, field .. name) or '' end
local before, said = get('wanted'), get('by')

if lead ~= '' then
  if said == 'hand' and before ~= '' then return { 'HAND' } end
  local holder, ends = string.match(redis.call('HGET', scale, '@lead') or '', '^(%S+) (%d+)$')
  if holder ~= lead or tonumber(ends) < now_ms() then return { 'LEAD' } end
end
if wanted == '' then
  redis.call('HDEL', scale, field .. 'wanted', field .. 'by', field .. 'since')
else
  local bounds = get('bounds')
  if bounds ~= '' then
    bounds = cjson.decode(bounds)
    local most = bounds.max or 0
    if tonumber(wanted) < (bounds.min or 0) or (most > 0 and tonumber(wanted) > most) then return { 'BOUNDS' } end
  end
  redis.call('HSET', scale, field .. 'wanted', wanted, field .. 'by', by, field .. 'since', string.format('%.0f', now_ms()))
end
redis.call('PUBLISH', channel, '=' .. component)
return { 'OK', before, said }
