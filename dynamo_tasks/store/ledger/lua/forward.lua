-- forward: RUNNING -> QUEUED by the owner, for another endpoint of the namespace: the request's id and log stay, and
--   the attempt does not count. It waits in the queue of the instance that was chosen, or in the component's where
--   that one is not registered (any more): what an instance leaves behind when it goes was pushed while it was
--   registered.
-- Keeps 1, 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, lease, epoch, endpoint, shared, own_queue, registration, message, late, waits,
--       marks
--   lease: hex; shared: queue key of the component; own_queue: of the instance, registration: its key;
--   late: queue for late binding ('' = none), waits: '1' = it goes there, else if others wait there; marks: its prompt's
-- returns 'OK' in the instance's queue | 'SHARED' in the component's | 'LATE' in that for late binding | 'FENCED' | 'GONE'
-- @include clock, components, numbers, records, wait_queue

local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.endpoint, F.queue, F.suffix, F.attempts, F.tenant, F.weight)
if not r.state then return 'GONE' end
if r.state == 'QUEUED' and r.epoch == epoch and r.endpoint == endpoint then
  return r.queue == shared and 'SHARED' or 'OK'
end
if r.state ~= 'RUNNING' or r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
local there = redis.call('EXISTS', registration) == 1
local queue = there and own_queue or shared
if late ~= '' then
  local its = component_of(endpoint)
  for _, one in ipairs(anybody_waits() and wait_queue().lists_up_to(late .. (r.suffix or '')) or {}) do
    if redis.call('EXISTS', wait_queue().waiting_key(its, one)) == 1 then waits = '1' end
  end
  if waits == '1' then queue = late end
  redis.call('HSET', KEYS[1], F.marks, marks)
end
redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.endpoint, endpoint, F.queue, queue, F.message, message, F.not_before,
  '0',
  F.attempts, int(tonumber(r.attempts) - 1))
redis.call('HDEL', KEYS[1], F.owner, F.nonce)
redis.call('SREM', base .. 'owned:' .. lease, id)
redis.call('ZADD', base .. 'queued', now_ms(), id)
redis.call('SREM', running_of(component_of(r.endpoint)), id)
local before = r.endpoint
r.endpoint, r.queue, r.message = endpoint, queue, message
enter(id, r)
admit(component_of(before))
return queue == late and 'LATE' or there and 'OK' or 'SHARED'
