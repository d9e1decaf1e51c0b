-- object_create: nothing -> an object of an API. Safe to repeat with the same data.
--
-- KEYS   1 object
-- @args base, namespaces, namespace, kind, id, owner, data, ttl, most, swept, reserved
--   namespaces: key of their set; ttl: ms, 0 = for good; most: objects of the kind that the owner may have; swept: '1' =
--   it has contents elsewhere, to be deleted with it; reserved: '1' = only while these are reserved (`object_reserve`)
-- returns {'OK', order}         its place by creation, µs
--         {'EXISTS'}            another one has the id
--         {'FULL', number}      the owner has as many as may be
--         {'GONE'}              the reservation has ended: its contents may be deleted at any moment
-- @include clock, numbers, objects

local order, ends = index_of(kind, owner)
local r = redis.call('HMGET', KEYS[1], 'owner', 'data', 'order')
if r[1] then
  if r[1] == owner and r[2] == data then return { 'OK', r[3] } end
  return { 'EXISTS' }
end
if reserved == '1' then
  local due = redis.call('ZSCORE', (remains_of(kind)), id)
  if not due or tonumber(due) <= now_ms() then return { 'GONE' } end
end
tidy(order, ends)
local number = redis.call('ZCOUNT', ends, '(' .. int(now_ms()), '+inf')
if number >= tonumber(most) then return { 'FULL', number } end

local last = redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')[2] or '0'
local place = int(math.max(now_ms() * 1000, tonumber(last) + 1))
redis.call('SADD', namespaces, namespace)
redis.call('HSET', KEYS[1], 'owner', owner, 'data', data, 'order', place, 'revision', '1')
redis.call('ZADD', order, place, id)
ends_in(KEYS[1], kind, id, order, ends, ttl, swept)
return { 'OK', place }
