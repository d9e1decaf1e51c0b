-- object_reserve: contents of an object that is not there yet are kept until then; or no longer.
--
-- @args base, kind, id, ms, renew
--   ms: from now, 0 = they are to be deleted; renew: '1' = only if the reservation has not ended
-- returns 'OK' | 'GONE' it has ended
-- @include clock, numbers, objects

local remains = remains_of(kind)
local due = redis.call('ZSCORE', remains, id)
if renew == '1' and (not due or tonumber(due) <= now_ms()) then return 'GONE' end
redis.call('ZADD', remains, int(now_ms() + tonumber(ms)), id)
return 'OK'
