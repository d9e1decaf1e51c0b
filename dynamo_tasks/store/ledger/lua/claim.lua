-- claim: QUEUED -> RUNNING by one attempt of one instance. Idempotent by nonce.
-- Keeps 1, 2, 3, 5, 9 of docs/ledger.md.
--
-- KEYS   1 record
-- @args base, lease, nonce, retry_number, tracked, namespaces, namespace, speaks, component, ...
--   lease: hex; retry_number: of the message; tracked: '1' if the message carries our header; namespaces: key of their
--   set; speaks: protocol version of the instance; ...: field, value for the record of a message without one
-- returns {'OK', epoch, previous id, attempt, readers, ms until its deadline (0 = none), {field, value, ... to
--          restore the record from}, ms that it waited}
--         {'UNSETTLED', state, result JSON, error JSON}  ended, but Celery's completion did not run to its end
--         {'DUPLICATE'}     owned by a live instance, ended, superseded by a retry, or meant for another component
--                           (it was forwarded since, and has another message): ack and drop
--         {'GONE'}          it has our header, but its record is gone: drop
--         {'EXPIRED'}       its deadline has passed: the caller ends it
--         {'NEWER'}         it needs a newer worker: kept for one, drop the message
--         {'WAIT', ms}      not yet: before its time, or a retry that overtook the end of the last attempt
--         {'FULL'}          the component runs as many as it may: it stands at the front of the wait queue; ack and
--         drop
-- @include clock, components, messages, numbers, owners, push, records, requests, stream, terminal, wait_queue

local id, log = named_by(KEYS[1])

local retry = tonumber(retry_number)
local r = whole(KEYS[1])
local now = now_ms()

-- Everything but what attempts change, the last that is read of it: a field that only a newer release knows is kept as
-- well. (A table of these names would take longer to make than all else here.)
local function restorable()
  r.state, r.message, r.not_before, r.readers, r.owner, r.nonce, r.epoch, r.attempts, r.previous = nil
  r.started, r.idle_attempts, r.traceparent, r.end_id, r.finished, r.settled, r.result, r.error, r.expires = nil
  local out, n = {}, 0
  for name, value in pairs(r) do
    out[n + 1], out[n + 2], n = name, value, n + 2
  end
  return out
end

local function granted(epoch, previous, attempt, waited)
  local deadline, readers = tonumber(r.deadline) or 0, r.readers or ''
  local left = deadline > 0 and int(math.max(1, deadline - now)) or '0'
  return { 'OK', epoch, previous, attempt, readers, left, restorable(), waited }
end

-- A message without a record gets one.
local function record_it()
  redis.call('SADD', namespaces, namespace)
  redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.created, int(now), F.retries, retry_number, unpack(ARGV, REST))
  r = whole(KEYS[1])
end

local function completion_again()
  if r.settled == '1' then return { 'DUPLICATE' } end
  if r.owner and r.owner ~= lease and redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1 then return { 'DUPLICATE' } end
  -- Who runs the completion owns it: if it dies as well, the message is sent once more.
  if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
  redis.call('ZREM', base .. 'queued', id)
  redis.call('HSET', KEYS[1], F.owner, lease)
  own(lease, id)
  return { 'UNSETTLED', r.state, r.result or '', r.error or '' }
end

-- A claim of a request that runs: refused, unless it is the same claim again or its owner is dead. Whether this claim
-- may take it over is not known yet: until then the dead owner keeps it, so that its recovery finds it.
local function of_running()
  if r.owner == lease and r.nonce == nonce then return granted(r.epoch, r.previous, r.attempts, '0') end
  if redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1 then
    if retry > (tonumber(r.retries) or 0) then return { 'WAIT', '1000' } end
    return { 'DUPLICATE' }
  end
end

local function take_from_the_dead(top)
  redis.call('SREM', base .. 'owned:' .. r.owner, id)
  if top == r.epoch .. '-0' then redis.call('HINCRBY', KEYS[1], F.idle_attempts, 1) end
end

-- Whoever takes it next may be a newer one; never an instance that was chosen without regard to that.
local function too_new()
  if r.state ~= 'QUEUED' or (tonumber(r.needs) or 0) <= tonumber(speaks) then return nil end
  redis.call('HSET', KEYS[1], F.queue, (shared_queue(r.queue)))
  redis.call('ZADD', base .. 'timers', now + 200, 'm:' .. id)
  return { 'NEWER' }
end

-- Only a release raises the retry number: it must stay that of the message which the record keeps to be sent again.
local function too_early_or_late()
  if retry < (tonumber(r.retries) or 0) then return { 'DUPLICATE' } end
  if (tonumber(r.deadline) or 0) > 0 and now >= tonumber(r.deadline) then return { 'EXPIRED' } end
  local expires = tonumber(r.expires) or 0
  if expires > 0 and now >= expires and (tonumber(r.attempts) or 0) == 0 then return { 'EXPIRED' } end
  if (tonumber(r.not_before) or 0) > now then return { 'WAIT', int(tonumber(r.not_before) - now) } end
end

-- The bound of the component as a whole. Who takes over what a dead instance ran takes its place, too.
local function too_many()
  local limit, running = limit_of(component, 'concurrency'), running_of(component)
  if not limit or r.state == 'RUNNING' or redis.call('SCARD', running) < limit then return nil end
  redis.call('ZADD', base .. 'queued', 'NX', tonumber(r.created) or now, id)
  redis.call('SADD', waiting_of(component), id)
  wait_queue().enqueue_in_front(component, r.queue .. (r.suffix or ''), id, tonumber(r.created) or now)
  return { 'FULL' }
end

local function start()
  local previous, top = top_of(log)
  if r.state == 'RUNNING' then take_from_the_dead(previous) end
  local epoch = int(math.max(now, (tonumber(r.epoch) or 0) + 1, top + 1))
  local attempt = int((tonumber(r.attempts) or 0) + 1)
  local event_id = epoch .. '-0'
  local data = previous .. '|' .. attempt .. '|' .. lease
  redis.call('XADD', log, event_id, 'k', data)
  if top > 0 then redis.call('PERSIST', log) end
  redis.call('HSET', KEYS[1], F.state, 'RUNNING', F.owner, lease, F.nonce, nonce, F.epoch, epoch, F.attempts, attempt,
    F.previous, previous, F.started, int(now))
  own(lease, id)
  -- A message that had no record, or whose owner was dead, did not wait.
  if redis.call('SMOVE', waiting_of(component), running_of(component), id) == 0 then
    redis.call('SADD', running_of(component), id)
  end
  redis.call('ZREM', base .. 'queued', id)
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'd:' .. id)
  leave_wait_queue(id, r)
  if (tonumber(r.deadline) or 0) > 0 then redis.call('ZADD', base .. 'timers', tonumber(r.deadline) + 1000, 'd:' .. id) end
  push(r.readers, id, event_id, 'k', data)
  return granted(epoch, previous, attempt, int(now - math.max(tonumber(r.created) or now, tonumber(r.not_before) or 0)))
end

-- The component's own limit of time, for what came before its workers, or as a bare Celery message.
local function bound()
  local most = limit_of(component, 'timeout')
  if not most or r.deadline or r.state ~= 'QUEUED' then return end
  r.deadline = int(math.max(tonumber(r.created) or now, tonumber(r.not_before) or 0) + most)
  redis.call('HSET', KEYS[1], F.deadline, r.deadline)
end

local function answer()
  if not r.state then
    if tracked == '1' then return { 'GONE' } end
    record_it()
  end
  if r.endpoint and component_of(r.endpoint) ~= component then return { 'DUPLICATE' } end
  bound()
  if TERMINAL[r.state] then return completion_again() end
  local refused = r.state == 'RUNNING' and of_running() or nil
  return refused or too_new() or too_early_or_late() or too_many() or start()
end

local reply = answer()
-- Whatever became of it: its message was taken from the list.
admit(component)
return reply
