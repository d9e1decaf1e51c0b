-- due: moves messages whose time has come to their queues; hands out abandon and deadline timers.
-- Keeps 2, 6, 9 of docs/ledger.md.
--
-- KEYS   1 timers zset
-- @args base, count
--   count: how many at most
-- returns list of 'a:<id>' and 'd:<id>' that have fallen due; the caller ends those requests (guarded). They stay, for
--         the case that it dies before it does, and fall due again: whatever ends the request removes them.
-- @include clock, records, wait_queue

local RETRY, AGAIN = 1000, 5000
local out = {}
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(count))
for _, member in ipairs(due) do
  local kind, id = string.match(member, '^(%a):(.*)$')
  if kind == 'm' then
    local r = fields(base .. 'req:' .. id, F.state, F.endpoint, F.queue, F.suffix, F.message, F.tenant, F.weight)
    if r.state == 'RUNNING' then
      redis.call('ZADD', KEYS[1], now + RETRY, member)
    else
      redis.call('ZREM', KEYS[1], member)
      if r.state == 'QUEUED' and r.message then enter(id, r) end
    end
  else
    redis.call('ZADD', KEYS[1], now + AGAIN, member)
    out[#out + 1] = member
  end
end
return out
