#!lua flags=allow-oom
-- lead: one `serve` decides how many instances of a unit are wanted, as long as it says so again in time.
--
-- KEYS   1 scale
-- @args name, ttl, ...
--   name: of the `serve`, no spaces; ttl: ms; 0 = it decides no more; ...: units
-- returns for each unit 1 while it decides, 0 while another one does
-- @include clock

local led, now = {}, now_ms()
for i = REST, #ARGV do
  local field = '@lead:' .. ARGV[i]
  local holder, ends = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%S+) (%d+)$')
  local free = not holder or holder == name or tonumber(ends) < now
  led[#led + 1] = free and ttl ~= '0' and 1 or 0
  if free and ttl == '0' then redis.call('HDEL', KEYS[1], field)
  elseif free then redis.call('HSET', KEYS[1], field, name .. ' ' .. string.format('%.0f', now + tonumber(ttl))) end
end
return led
