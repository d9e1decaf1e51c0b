-- late_look: the requests at the head of a queue for late binding, for a worker that has room and is to choose among
--   them. Changes nothing.
--
-- KEYS   1 list of the late queue, of one priority
-- @args base, component, list, count
-- returns {how many stood there at most, {id, virtual time, how many were taken since it came, tenant, marks}, ...}; only
--         the first where the component runs as many as it may: the end of a run rings again
-- @include records, wait_queue

local waiting = wait_queue()
if waiting.room_of(component, list) <= 0 then return { '0' } end
local tags = waiting.tags_of(component, list)
local rows = redis.call('ZRANGE', waiting.waiting_key(component, list), 0, tonumber(count) - 1, 'WITHSCORES')
local known = redis.call('HMGET', tags, 'taken', 'most')
local taken, out = tonumber(known[1] or nil) or 0, { known[2] or '0' }
for at = 1, #rows, 2 do
  local id = rows[at]
  local came = tonumber(redis.call('HGET', tags, 's:' .. id) or nil) or taken
  local r = fields(base .. 'req:' .. id, F.tenant, F.marks)
  out[#out + 1] = { id, rows[at + 1], taken - came, r.tenant or '', r.marks or '' }
end
return out
