#!lua flags=allow-oom
-- object_sweep: objects whose contents are to be deleted: they were deleted, or have ended, or never came to be. Who
--   gets one has some time to do it; then it is given out again, until it is swept.
--
-- @args base, kind, limit, ms, ...
--   ms: that time; ...: ids whose contents are gone
-- returns ids
-- @include clock, numbers, objects

local remains, waste = remains_of(kind)
for i = REST, #ARGV do redis.call('ZREM', waste, ARGV[i]) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', remains, '-inf', int(now_ms()), 'LIMIT', 0, limit)) do
  redis.call('ZREM', remains, id)
  redis.call('ZADD', waste, int(now_ms()), id)
end
local found = redis.call('ZRANGEBYSCORE', waste, '-inf', int(now_ms()), 'LIMIT', 0, limit)
for _, id in ipairs(found) do redis.call('ZADD', waste, int(now_ms() + tonumber(ms)), id) end
return found
