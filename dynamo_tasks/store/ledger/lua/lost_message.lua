-- lost_message: is the message of a QUEUED request gone from its queue? With `republish`, it is sent again. So is
--   that of a request which has ended, if it was sent again for Celery's completion.
--   It is gone when it is neither in its list nor in the wait queue. A long list (foreign messages, a mass recovery)
--   is not searched: there it is gone when the request is older than the list's head.
--   What waits in the queue of an instance that is no more goes to the component's queue at once.
-- Keeps 2, 6 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, republish
--   republish: '1' = send it again
-- returns 'OK' republished | 'LOST' it is gone | 'THERE' | 'NOT' not queued, or its time has not come
-- @include clock, components, late, messages, records, wait_queue

local r = fields(KEYS[1], F.state, F.endpoint, F.queue, F.suffix, F.message, F.not_before, F.tenant, F.weight)
local SEARCHED = 128
local since = redis.call('ZSCORE', base .. 'queued', id)
if not r.state then redis.call('ZREM', base .. 'queued', id) end
if not r.state or not since or not r.message then return 'NOT' end
if r.state == 'QUEUED' and (tonumber(r.not_before) or 0) > now_ms() then return 'NOT' end
if redis.call('ZSCORE', base .. 'timers', 'm:' .. id) then return 'NOT' end
local shared, instance = string.match(r.queue, '^(.*|[^.]*)%..*%-(%x+)$')
if shared and redis.call('SISMEMBER', base .. 'leases', instance) == 0 then
  redis.call('LREM', r.queue .. (r.suffix or ''), 0, r.message)
  leave_wait_queue(id, r)
  redis.call('HSET', KEYS[1], F.queue, shared)
  local its = shared .. (r.suffix or '')
  if not redis.call('LPOS', its, r.message) then redis.call('RPUSH', its, r.message) end
  return 'OK'
end
local list = r.queue .. (r.suffix or '')

local function found()
  if redis.call('LLEN', list) > SEARCHED then
    local head_id = id_of(redis.call('LINDEX', list, -1))
    if head_id == id then return true end
    local mine = tonumber(since)
    local its = head_id and redis.call('ZSCORE', base .. 'queued', head_id)
    -- A head that the ledger does not know says nothing of ages.
    return not its or tonumber(its) <= mine
  end
  if redis.call('LPOS', list, r.message) then return true end
  -- A worker that gave it back may have written it in other words.
  for _, message in ipairs(redis.call('LRANGE', list, 0, -1)) do
    if id_of(message) == id then return true end
  end
  return false
end

if redis.call('ZSCORE', wait_queue().waiting_key(component_of(r.endpoint), list), id) or found() then return 'THERE' end
if republish ~= '1' then return 'LOST' end
if late_of(r.queue) then
  list = shared_queue(r.queue) .. (r.suffix or '')
  redis.call('HSET', KEYS[1], F.queue, (shared_queue(r.queue)))
end
redis.call('RPUSH', list, r.message)
return 'OK'
