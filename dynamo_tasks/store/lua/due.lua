-- due: moves messages whose time has come to their queues; hands out abandon and deadline timers.
--
-- KEYS   1 timers zset
-- ARGV   1 base, 2 how many at most
-- returns list of 'a:<id>' and 'd:<id>' that have fallen due; the caller ends those requests (guarded)
local out = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'LIMIT', 0, tonumber(ARGV[2]))
for _, member in ipairs(due) do
  redis.call('ZREM', KEYS[1], member)
  local kind, id = string.match(member, '^(%a):(.*)$')
  if kind == 'm' then
    local r = fields(base .. 'req:' .. id, 'st', 'q', 'qs', 'msg')
    if r.st == 'QUEUED' and r.msg then redis.call('LPUSH', r.q .. (r.qs or ''), r.msg) end
  else
    out[#out + 1] = member
  end
end
return out
