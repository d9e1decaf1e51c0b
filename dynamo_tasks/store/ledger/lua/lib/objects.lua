-- Objects of APIs: hashes with an owner, and the index of each owner's by their creation.
-- @include clock, numbers

-- Milliseconds for which a deleted or expired one keeps its place in the index: who pages through a list and deletes
-- what is there still knows where to go on.
local KEPT_PLACE = 600000

-- Its owner's index by creation, and their ends by time.
local function index_of(kind, owner)
  return base .. 'objects:' .. kind .. ':' .. owner, base .. 'object-ends:' .. kind .. ':' .. owner
end

-- Ids whose contents elsewhere fall due, by time; and those whose contents are to be deleted.
local function remains_of(kind) return base .. 'object-remains:' .. kind, base .. 'object-waste:' .. kind end

-- An index lives as long as one of its objects, and goes with the last.
local function tidy(order, ends)
  local gone = redis.call('ZRANGEBYSCORE', ends, '-inf', int(now_ms() - KEPT_PLACE), 'LIMIT', 0, 200)
  if #gone > 0 then
    redis.call('ZREM', order, unpack(gone))
    redis.call('ZREM', ends, unpack(gone))
  end
  local last = redis.call('ZRANGE', ends, -1, -1, 'WITHSCORES')[2]
  for _, key in ipairs({ order, ends }) do
    if last == 'inf' then redis.call('PERSIST', key)
    elseif last then redis.call('PEXPIRE', key, int(tonumber(last) + KEPT_PLACE - now_ms())) end
  end
end

-- Its end, in ms from now; 0 = none.
local function ends_in(key, kind, id, order, ends, ttl, swept)
  local left = tonumber(ttl)
  local moment = left > 0 and int(now_ms() + left)
  redis.call('ZADD', ends, moment or '+inf', id)
  redis.call('HSET', key, 'ends', moment or '0')
  if moment then redis.call('PEXPIRE', key, ttl) else redis.call('PERSIST', key) end
  if swept == '1' then
    local remains = remains_of(kind)
    if moment then redis.call('ZADD', remains, moment, id) else redis.call('ZREM', remains, id) end
  end
  tidy(order, ends)
end
