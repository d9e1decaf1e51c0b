-- requeue: what a dead instance held goes back to the front of its queue.
--   RUNNING -> QUEUED, or FAILED once its attempts are used up; ended but not settled: the message is sent again.
-- Keeps 1, 2, 4 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, lease, db, most_idle, most_attempts, idle_data, idle_error, attempts_data, attempts_error
--   lease: of the dead owner, hex; most_idle: attempts without a token, most_attempts: at all; payload of the end event
--   and error (JSON) for either
-- returns 'OK' queued again | 'DEAD' its attempts are used up | 'SETTLE' its message was sent again | 'NOT' not its
-- owner
-- @include clock, components, messages, numbers, records, stream, terminal, unowned, wait_queue

local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.queue, F.suffix, F.message, F.attempts, F.idle_attempts,
  F.settled, F.created, F.ignore_result, F.endpoint)
redis.call('SREM', base .. 'owned:' .. lease, id)
if r.owner ~= lease then return 'NOT' end
-- An instance's own queue died with it.
local queue = r.queue and shared_queue(r.queue)

-- To the front, as old as it is: it stands before younger ones, which must not seem to be missing. It is looked for
-- as any message is, until somebody claims it.
local function send_again()
  redis.call('HSET', KEYS[1], F.queue, queue, F.message, r.message)
  redis.call('ZADD', base .. 'queued', tonumber(r.created) or now_ms(), id)
  redis.call('RPUSH', queue .. (r.suffix or ''), r.message)
end

if TERMINAL[r.state] then
  redis.call('HDEL', KEYS[1], F.owner)
  if r.settled == '1' or not r.message then return 'NOT' end
  send_again()
  return 'SETTLE'
end
if r.state ~= 'RUNNING' then return 'NOT' end
local top = top_of(KEYS[2])
local idle = (tonumber(r.idle_attempts) or 0) + (top == r.epoch .. '-0' and 1 or 0)
redis.call('HSET', KEYS[1], F.idle_attempts, int(idle))
local poison = idle >= tonumber(most_idle)
local data, error = attempts_data, attempts_error
if poison then data, error = idle_data, idle_error end
if poison or (tonumber(r.attempts) or 0) >= tonumber(most_attempts) then
  redis.call('HDEL', KEYS[1], F.owner)
  redis.call('HSET', KEYS[1], F.dead_message, r.message, F.queue, queue)
  end_unowned(KEYS[1], KEYS[2], id, db, data, 'FAILED', error)
  redis.call('ZADD', base .. 'dead', now_ms(), id)
  redis.call('ZREMRANGEBYSCORE', base .. 'dead', '-inf', int(now_ms() - RECORD_TTL))
  -- Celery's completion (errbacks, the chord that waits for it) runs at any worker that receives the message; the body does
  -- not.
  if r.ignore_result ~= '1' then send_again() end
  return 'DEAD'
end
redis.call('HSET', KEYS[1], F.state, 'QUEUED')
redis.call('HDEL', KEYS[1], F.owner, F.nonce)
redis.call('SREM', running_of(component_of(r.endpoint)), id)
redis.call('SADD', waiting_of(component_of(r.endpoint)), id)
send_again()
admit(component_of(r.endpoint))
return 'OK'
