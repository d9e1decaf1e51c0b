-- preempt: RUNNING -> QUEUED by the owner, who needs its place for others: to the front of its own list, where it waits
--   with its priority for a free place. The attempt does not count.
-- Keeps 1, 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, lease, epoch, shared
--   lease: hex; shared: '1' = any instance of the component may go on with it; else the one that was called by name
-- returns 'OK' | 'FENCED' | 'GONE'
-- @include clock, components, messages, numbers, records, wait_queue

local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.endpoint, F.queue, F.suffix, F.message, F.attempts, F.created,
  F.preemptions)
if not r.state then return 'GONE' end
if r.state == 'QUEUED' and r.epoch == epoch then return 'OK' end
if r.state ~= 'RUNNING' or r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
local now = now_ms()
local queue = shared == '1' and shared_queue(r.queue) or r.queue
-- It waits from now on, whenever it came.
redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.queue, queue, F.not_before, int(now), F.attempts,
  int(tonumber(r.attempts) - 1), F.preemptions, int((tonumber(r.preemptions) or 0) + 1))
-- It was started in time.
redis.call('HDEL', KEYS[1], F.owner, F.nonce, F.expires)
redis.call('SREM', base .. 'owned:' .. lease, id)
-- As old as it is: it stands before younger ones, which must not seem to be missing.
redis.call('ZADD', base .. 'queued', tonumber(r.created) or now, id)
redis.call('RPUSH', queue .. (r.suffix or ''), r.message)
local component = component_of(r.endpoint)
-- It is not counted among those that wait: nobody who comes is refused because of it.
redis.call('SREM', running_of(component), id)
admit(component)
return 'OK'
