-- What a request may take of its API key is reserved, or it is refused; see account.lua.
-- @include account, clock, numbers

-- Reservations of requests that Redis forgot are themselves forgotten once the key was idle for so long.
local HELD_TTL = 2 * DAY

local function numbers_of(text)
  local found = {}
  for one in string.gmatch(text, '%S+') do found[#found + 1] = tonumber(one) or 0 end
  return found
end

-- Tokens and cost of a day so far.
local function spent(owner, now)
  local tokens, cost = 0, 0
  local all = redis.call('HGETALL', usage_key(owner, now))
  for i = 2, #all, 2 do
    local n = numbers_of(all[i])
    tokens, cost = tokens + (n[3] or 0) + (n[4] or 0), cost + (n[9] or 0)
  end
  return tokens, cost
end

-- Returns a refusal {'BUDGET', what, ms to wait, tokens left of the minute, ms until it is whole}; or nil, tokens left of
-- the minute, ms until it is whole: then it is reserved. `budget`: '<per minute> <per day> <cost per day> <tokens> <cost>'.
local function reserve(owner, budget)
  local b, now = numbers_of(budget), now_ms()
  local per_minute, per_day, cost_per_day, tokens, cost = b[1], b[2], b[3], b[4], b[5]
  local minute, step = base .. 'tokens:' .. owner, per_minute > 0 and 60000 / per_minute or 0
  local full_at = per_minute > 0 and math.max(now, tonumber(redis.call('GET', minute) or nil) or 0) or now

  local function left(at) return step > 0 and math.max(0, math.floor((60000 - (at - now)) / step + 1e-6)) or 0 end

  local function refused(what, wait) return { 'BUDGET', what, int(wait), int(left(full_at)), int(full_at - now) } end

  if per_day > 0 or cost_per_day > 0 then
    local held = redis.call('HMGET', base .. 'held:' .. owner, 'tokens', 'cost')
    local used, paid = spent(owner, now)
    used, paid = used + (tonumber(held[1] or nil) or 0), paid + (tonumber(held[2] or nil) or 0)
    if per_day > 0 and used + tokens > per_day then return refused('tokens', DAY - now % DAY) end
    if cost_per_day > 0 and paid + cost > cost_per_day then return refused('cost', DAY - now % DAY) end
  end
  if per_minute > 0 then
    if tokens > per_minute then return refused('large', 60000) end
    local then_full = full_at + tokens * step
    if then_full - now > 60000 + 1e-6 then return refused('minute', math.ceil(then_full - now - 60000)) end
    full_at = then_full
    redis.call('SET', minute, real(full_at), 'PX', int(math.ceil(full_at - now) + 1))
  end
  redis.call('HINCRBY', base .. 'held:' .. owner, 'tokens', int(tokens))
  redis.call('HINCRBY', base .. 'held:' .. owner, 'cost', int(cost))
  redis.call('HINCRBY', base .. 'held:' .. owner, 'n', 1)
  redis.call('PEXPIRE', base .. 'held:' .. owner, HELD_TTL)
  return nil, left(full_at), full_at - now
end
