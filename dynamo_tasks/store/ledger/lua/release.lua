-- release: RUNNING -> QUEUED by the owner: Celery retry, or hand-over at drain.
-- Keeps 1, 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, lease, epoch, retry_number, wait, new_message, to_front, uncounted
--   lease: hex; wait: ms until not_before (0 = now); new_message: '' = the stored one; to_front: '1' = to the front of
--   the queue; uncounted: '1' = the attempt does not count
-- returns 'OK' | 'FENCED' | 'GONE'
-- @include clock, components, messages, numbers, records, wait_queue

local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.endpoint, F.queue, F.suffix, F.message, F.attempts, F.retries,
  F.tenant, F.weight)
if not r.state then return 'GONE' end
-- The number is that of the message which the record keeps: with the stored message it stays.
local retry = new_message ~= '' and retry_number or r.retries or '0'
if r.state == 'QUEUED' and r.epoch == epoch and (r.retries or '0') == retry then return 'OK' end
if r.state ~= 'RUNNING' or r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
local message = new_message ~= '' and new_message or r.message
local now = now_ms()
local not_before = wait == '0' and 0 or now + tonumber(wait)
local attempts = uncounted == '1' and int(tonumber(r.attempts) - 1) or r.attempts
redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.retries, retry, F.not_before, int(not_before), F.message, message,
  F.attempts, attempts)
-- It was started in time.
redis.call('HDEL', KEYS[1], F.owner, F.nonce, F.expires)
redis.call('SREM', base .. 'owned:' .. lease, id)
redis.call('SREM', running_of(component_of(r.endpoint)), id)
redis.call('ZADD', base .. 'queued', now, id)
if not_before > now then
  redis.call('ZADD', base .. 'timers', not_before, 'm:' .. id)
elseif to_front == '1' then
  -- The owner goes down, and its own queue with it.
  local queue = shared_queue(r.queue)
  redis.call('HSET', KEYS[1], F.queue, queue)
  redis.call('RPUSH', queue .. (r.suffix or ''), message)
  redis.call('SADD', waiting_of(component_of(r.endpoint)), id)
else
  r.message = message
  enter(id, r)
end
admit(component_of(r.endpoint))
return 'OK'
