-- quota: one request of a tenant that has limits of its own, asked before its submit by whichever frontend got it.
--   Requests per minute: a bucket that holds a minute's worth (GCRA: the key is the time at which it is full again).
--   Requests that have not ended: a set of ids, compared with their records when it seems to be full, so that neither a
--   dead frontend nor a refused submit leaves a place taken. A request that has a place may ask again: it keeps it.
--
-- KEYS   1 bucket, 2 set of ids
-- @args base, id, per_minute, most
--   id: '' = it has no record; per_minute: requests; most: that have not ended (both: 0 = no limit)
-- returns {'OK', requests left, ms until the bucket is full}
--         {'RATE', 0, ms until the bucket is full, ms until the next one}
--         {'OPEN', requests left, ms until the bucket is full, how many have not ended}
-- @include clock, numbers, terminal

local per_minute, most = tonumber(per_minute), tonumber(most)
local now = now_ms()
-- A submit that was not answered within this time was refused, or its frontend is dead.
local UNKNOWN = 10000
local step = per_minute > 0 and 60000 / per_minute or 0
local full_at = per_minute > 0 and math.max(now, tonumber(redis.call('GET', KEYS[1]) or nil) or 0) or now

local function left(at) return per_minute > 0 and int(math.floor((60000 - (at - now)) / step + 1e-6)) or '0' end

local function ended(one)
  local state = redis.call('HGET', base .. 'req:' .. one[1], F.state)
  if state then return TERMINAL[state] end
  return now - tonumber(one[2]) > UNKNOWN
end

local function open()
  local n = redis.call('ZCARD', KEYS[2])
  if n < most then return n end
  local rows = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for i = 1, #rows, 2 do
    if ended({ rows[i], rows[i + 1] }) then n = n - redis.call('ZREM', KEYS[2], rows[i]) end
  end
  return n
end

if most > 0 and id ~= '' and redis.call('ZSCORE', KEYS[2], id) then
  redis.call('ZADD', KEYS[2], now, id)
  return { 'OK', left(full_at), int(full_at - now) }
end
if most > 0 and id ~= '' then
  local n = open()
  if n >= most then return { 'OPEN', left(full_at), int(full_at - now), int(n) } end
end
if per_minute > 0 then
  local next_full = full_at + step
  if next_full - now > 60000 + 1e-6 then
    return { 'RATE', '0', int(full_at - now), int(math.ceil(next_full - now - 60000)) }
  end
  full_at = next_full
  redis.call('SET', KEYS[1], real(full_at), 'PX', int(math.ceil(full_at - now)))
end
if most > 0 and id ~= '' then
  redis.call('ZADD', KEYS[2], now, id)
  redis.call('PEXPIRE', KEYS[2], RECORD_TTL)
end
return { 'OK', left(full_at), int(full_at - now) }
