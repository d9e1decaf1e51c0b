-- A request that has ended is charged to its API key, and its reservation is given back; see account.lua.
-- @include account, clock, numbers

-- Events that are read to count the tokens of a request whose end does not say.
local MOST_EVENTS = 5000
-- One pattern and one format for a row: a loop over its numbers takes ten times as long.
local ACCOUNT = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (.*)$'
local SUMS = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local ROW = '%d %d %d %d %d %d %d %d %d'
local USED = '^(%d+) (%d+) (%d+) (%d+)$'

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

-- Adds to the row of a day and model. `cost` is whole; `ttft` too, negative = not known.
local function charge(owner, now, days, model, failed, prompt, answer, cached, reasoning, ttft, cost)
  local key, had = usage_key(owner, now), 1
  if ttft < 0 then ttft, had = 0, 0 end
  local before = redis.call('HGET', key, model)
  if before then
    local requests, errors, asked, given, reused, thought, waited, heard, paid = string.match(before, SUMS)
    -- What cannot be read is begun anew: it must not keep a request from its end.
    if requests then
      return redis.call('HSET', key, model, string.format(ROW, requests + 1, errors + failed, asked + prompt, given + answer,
        reused + cached, thought + reasoning, waited + had * ttft, heard + had, paid + cost))
    end
  end
  redis.call('HSET', key, model, string.format(ROW, 1, failed, prompt, answer, cached, reasoning, ttft, had, cost))
  if before then return end
  local index = base .. 'usage:' .. int(math.floor(now / DAY))
  redis.call('SADD', index, owner)
  redis.call('PEXPIRE', key, int(days * DAY))
  redis.call('PEXPIRE', index, int(days * DAY))
end

-- A request has ended; the field of its record goes elsewhere, in the same script. `r`: its account, owner_key, created,
-- started; `used`: '<prompt> <answer> <cached> <reasoning>' of its owner, '' = not said; ttft: ms, negative = not known.
local function account_ends(log, r, state, used, ttft)
  local minute, tokens, held, expected, price_in, price_out, price_cached, days, model = string.match(r.account, ACCOUNT)
  if not model then return end
  local owner, now = r.owner_key or '', now_ms()
  local prompt, answer, cached, reasoning = string.match(used, USED)
  if not prompt then
    prompt, answer, cached, reasoning = r.started and expected or 0, streamed(log), 0, 0
  end
  prompt, answer, days = tonumber(prompt) or 0, tonumber(answer), tonumber(days) or 0
  if minute ~= '0' or tokens ~= '0' or held ~= '0' then
    return_reservation(owner, now, tonumber(r.created) or now, tonumber(minute) or 0, tonumber(tokens) or 0,
      tonumber(held) or 0, prompt + answer)
  end
  if days <= 0 then return end
  local of_prompt, of_answer, of_cached = tonumber(price_in) or 0, tonumber(price_out) or 0, tonumber(price_cached) or 0
  local cost = math.floor((prompt - cached) * of_prompt + answer * of_answer + cached * of_cached + 0.5)
  charge(owner, now, days, model, state == 'SUCCEEDED' and 0 or 1, prompt, answer, cached, reasoning, ttft, cost)
end
