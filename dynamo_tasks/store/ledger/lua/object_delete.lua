#!lua flags=allow-oom
-- object_delete: an object is gone; its place in the index stays for a while.
--
-- KEYS   1 object
-- @args base, kind, id, owner, any, swept
--   any: '1' = of any owner; swept: as in `object_create`
-- returns 'OK' | 'GONE' there is none, or it is another owner's
-- @include clock, numbers, objects

local owned_by = redis.call('HGET', KEYS[1], 'owner')
if not owned_by or (any ~= '1' and owned_by ~= owner) then return 'GONE' end
local order, ends = index_of(kind, owned_by)
redis.call('DEL', KEYS[1])
redis.call('ZADD', ends, int(now_ms()), id)
if swept == '1' then
  local remains, waste = remains_of(kind)
  redis.call('ZREM', remains, id)
  redis.call('ZADD', waste, int(now_ms()), id)
end
tidy(order, ends)
return 'OK'
