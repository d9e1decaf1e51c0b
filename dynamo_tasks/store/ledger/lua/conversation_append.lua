-- conversation_append: items are added to a conversation, all of them or none. Those of a response once, however
--   many add them; an item whose id is there already stays as it is.
--   An owner is told about such an item instead.
--
-- KEYS   1 object
-- @args base, id, owner, request, most, most_bytes, ...
--   owner: '' = any; request: of the response that adds them and is over with that, '' = none; most: items that there
--   may be, 0 = any number; most_bytes: of all of them; ...: id, item
-- returns 'OK' | 'GONE' there is none, or it is another owner's | 'DONE' the response has added them before
--         | 'FULL' there would be more than may be | 'TWICE' an item of the owner's has the id of one that is there
-- @include conversations, numbers

local items, order, state = parts_of(id)
local owned_by = redis.call('HGET', KEYS[1], 'owner')
if not owned_by or (owner ~= '' and owned_by ~= owner) then
  if request ~= '' then close_response(id, request) end
  return 'GONE'
end
if request ~= '' and redis.call('HGET', state, 'open') ~= request then
  redis.call('ZREM', base .. 'conv-open', id .. ' ' .. request)
  return 'DONE'
end
local count = redis.call('ZCARD', order)
if most ~= '0' then
  local bytes = tonumber(redis.call('HGET', state, 'bytes') or '0')
  for i = REST, #ARGV, 2 do
    if redis.call('HEXISTS', items, ARGV[i]) == 1 then return 'TWICE' end
    bytes = bytes + #ARGV[i + 1]
  end
  if count + (#ARGV - REST + 1) / 2 > tonumber(most) or bytes > tonumber(most_bytes) then return 'FULL' end
end
local place = tonumber(redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')[2] or '0')
for i = REST, #ARGV, 2 do
  if redis.call('HSETNX', items, ARGV[i], ARGV[i + 1]) == 1 then
    place = place + 1
    redis.call('ZADD', order, int(place), ARGV[i])
    redis.call('HINCRBY', state, 'bytes', #ARGV[i + 1])
  end
end
if REST <= #ARGV then redis.call('HINCRBY', state, 'changes', 1) end
if request ~= '' then close_response(id, request) end
live_like(KEYS[1], id)
return 'OK'
