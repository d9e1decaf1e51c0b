-- The account of a request: its reservation is taken where its record is written, and it is charged, and the reservation
-- given back, where its end is: by the same scripts, so both happen as often as these.
--
-- Of a record: F.account, '<tokens per minute> <tokens reserved> <cost reserved> <prompt tokens> <price in> <price out>
-- <price cached> <days> <model>'; without it a request counts for nobody. Costs are billionths.
-- Keys: tokens:<owner> when its tokens of a minute are whole again, ms; held:<owner> what is reserved: tokens, cost, n;
-- usage:<day>:<owner> model -> '<requests> <errors> <prompt> <answer> <cached> <reasoning> <ttft ms> <how many had one>
-- <cost>'; usage:<day> the owners of a day. Days since 1970, UTC.
-- @include clock, numbers

local DAY = 86400000
-- Reservations of requests that Redis forgot are themselves forgotten once the key was idle for so long.
local HELD_TTL = 2 * DAY
-- Events that are read to count the tokens of a request whose end does not say.
local MOST_EVENTS = 5000
local USED = '^(%d+) (%d+) (%d+) (%d+)$'

local function usage_key(owner, now) return base .. 'usage:' .. int(math.floor(now / DAY)) .. ':' .. owner end

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

-- Returns a refusal {'BUDGET', what, ms to wait, tokens left of the minute, ms until it is whole}; or nil, tokens left of the minute, ms until it is whole: then it is
-- reserved. `budget`: '<per minute> <per day> <cost per day> <tokens> <cost>' of one request.
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

-- Tokens of the answer, as far as they are in the stream.
local function streamed(log)
  local n = 0
  for _, entry in ipairs(redis.call('XREVRANGE', log, '+', '-', 'COUNT', MOST_EVENTS)) do
    local field = entry[2]
    local readable, deltas = pcall(cmsgpack.unpack, field[1] == 't' and field[2] or '\144')
    for _, delta in ipairs(readable and type(deltas) == 'table' and deltas or {}) do
      if type(delta) == 'table' and type(delta[2]) == 'table' then n = n + #delta[2] end
    end
  end
  return n
end

local function return_reservation(owner, now, created, per_minute, tokens, cost, used)
  local key = base .. 'held:' .. owner
  if redis.call('HINCRBY', key, 'n', -1) <= 0 then
    redis.call('DEL', key)
  else
    redis.call('HINCRBY', key, 'tokens', int(-tokens))
    redis.call('HINCRBY', key, 'cost', int(-cost))
  end
  if per_minute == 0 then return end
  local step = 60000 / per_minute
  -- What was reserved and not used has run off since, as time went by: only the rest of it is there to be given back.
  local change = (used - tokens) * step
  if change < 0 then change = math.min(0, change + math.max(0, now - created)) end
  local minute = base .. 'tokens:' .. owner
  local full_at = math.max(now, tonumber(redis.call('GET', minute) or nil) or 0) + change
  if full_at <= now then
    redis.call('DEL', minute)
  else
    redis.call('SET', minute, real(full_at), 'PX', int(math.ceil(full_at - now) + 1))
  end
end

local function charge(owner, now, days, model, more)
  local key = usage_key(owner, now)
  local before = redis.call('HGET', key, model)
  local sums = numbers_of(before or '')
  for i = 1, 9 do sums[i] = int((sums[i] or 0) + more[i]) end
  redis.call('HSET', key, model, table.concat(sums, ' '))
  if before then return end
  local index = base .. 'usage:' .. int(math.floor(now / DAY))
  redis.call('SADD', index, owner)
  redis.call('PEXPIRE', key, int(days * DAY))
  redis.call('PEXPIRE', index, int(days * DAY))
end

-- A request has ended. `r`: its account, owner_key, created, started; `used`: '<prompt> <answer> <cached> <reasoning>' of
-- its owner, '' = not said; ttft: ms, negative = not known.
local function account_ends(record, log, r, state, used, ttft)
  local head, model = string.match(r.account, '^(%S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+) (.*)$')
  redis.call('HDEL', record, F.account)
  if not head then return end
  local a, owner, now = numbers_of(head), r.owner_key or '', now_ms()
  local prompt, answer, cached, reasoning = string.match(used, USED)
  if not prompt then
    prompt, answer, cached, reasoning = r.started and a[4] or 0, streamed(log), 0, 0
  end
  prompt, answer, cached = tonumber(prompt), tonumber(answer), tonumber(cached)
  local cost = math.floor((prompt - cached) * a[5] + answer * a[6] + cached * a[7] + 0.5)
  if a[1] > 0 or a[2] > 0 or a[3] > 0 then
    return_reservation(owner, now, tonumber(r.created) or now, a[1], a[2], a[3], prompt + answer)
  end
  if a[8] <= 0 then return end
  local had = ttft >= 0 and 1 or 0
  charge(owner, now, a[8], model, {
    1, state == 'SUCCEEDED' and 0 or 1, prompt, answer, cached, tonumber(reasoning), had * ttft, had, cost,
  })
end
