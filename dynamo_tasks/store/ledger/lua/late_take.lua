-- late_take: a worker takes a request from a queue for late binding, as others pop: it is still QUEUED, until its claim.
--   It uses the turn of its tenant's first request, and those of its tenant before it get each the next one's: they
--   keep their order, and the tenants their turns.
-- Keeps 2 of docs/ledger.md: what is taken and not claimed is found by the search for lost messages.
--
-- KEYS   1 list of the late queue, of one priority
-- @args base, component, list, id, why, ...
--   id: '' = none, only ring for others; why: JSON: why this worker;
--   ...: those of its tenant before it, in their order
-- returns {message, ms that it waited} | {} somebody else was faster
-- @include clock, numbers, records, wait_queue

local waiting = wait_queue()
local key, tags = waiting.waiting_key(component, list), waiting.tags_of(component, list)

local function take(tag)
  local record = base .. 'req:' .. id
  local r = fields(record, F.message, F.tenant)
  for at = #ARGV, REST, -1 do -- the nearest first
    local turn = tonumber(redis.call('ZSCORE', key, ARGV[at]) or nil)
    if turn and turn < tag then
      redis.call('ZADD', key, real(tag), ARGV[at])
      tag = turn
    end
  end
  redis.call('ZREM', key, id)
  redis.call('LPOP', waiting.shadow_of(list))
  redis.call('HDEL', tags, 's:' .. id)
  redis.call('HINCRBY', tags, 'taken', 1)
  if tag > 0 then
    local mine = 't:' .. (r.tenant or '')
    redis.call('HSET', tags, 'now', real(math.max(tag, tonumber(redis.call('HGET', tags, 'now') or nil) or 0)))
    if (tonumber(redis.call('HGET', tags, mine) or nil) or 0) <= tag then redis.call('HDEL', tags, mine) end
  end
  if not r.message then return {} end
  redis.call('HSET', record, F.why, why)
  return { r.message, int(now_ms() - (tonumber(redis.call('ZSCORE', base .. 'queued', id) or nil) or now_ms())) }
end

local tag = id ~= '' and tonumber(redis.call('ZSCORE', key, id) or nil)
local reply = tag and take(tag) or {}
waiting.clear(component, list)
waiting.ring(component, list)
return reply
