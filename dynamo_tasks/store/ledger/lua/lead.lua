#!lua flags=allow-oom
-- lead: one `serve` of a namespace decides how many instances are wanted, as long as it says so again in time.
--
-- KEYS   1 scale
-- @args name, ttl
--   name: of the `serve`, no spaces; ttl: ms; 0 = it decides no more
-- returns 1 while it decides, 0 while another one does
-- @include clock

local holder, ends = string.match(redis.call('HGET', KEYS[1], '@lead') or '', '^(%S+) (%d+)$')
if holder and holder ~= name and tonumber(ends) >= now_ms() then return 0 end
if ttl == '0' then
  redis.call('HDEL', KEYS[1], '@lead')
  return 0
end
redis.call('HSET', KEYS[1], '@lead', name .. ' ' .. string.format('%.0f', now_ms() + tonumber(ttl)))
return 1
