-- submit: (nothing) -> QUEUED. Writes the ledger record and pushes the Celery message, or does neither.
-- Keeps 2, 8, 9 of docs/ledger.md.
--
-- KEYS   1 record
-- @args base, namespaces, namespace, queue, suffix, starts_in, ends_in, reader, most_waiting, idem, digest,
--       message, through, expires_in, db, endpoint, tenant, weight, document, owner_key, budget, late, ...
--   namespaces: key of their set; queue: its key without priority, suffix: the priority's; starts_in: ms until
--   not_before (0 = now), ends_in: until its deadline, expires_in: until it expires (0 = never); reader: channel (''
--   = none); most_waiting: limit of what waits for the component, as the caller knows it (0 = none); idem:
--   idempotency key ('' = none); digest: of the payload; through: components that it passes, separated by spaces;
--   weight: of the tenant; document: kept beside the record for as long ('' = none);
--   owner_key, budget: whose it is, and what its API key may (see lib/account.lua; '' = no limits);
--   late: queue for late binding, where it waits if others of its priority or a higher one do ('' = none)
--   ...: field, value of the record
-- returns {'OK', id, tokens left of its key's minute, ms until that is whole}  queued
--         {'EXISTS', id}          the id is known: a publish that was sent twice, or a child call of a re-run parent
--         {'JOINED', id}          the idempotency key belongs to this request, same payload
--         {'CONFLICT', id}        ..., another payload; or the caller has named an id that stands for another one
--         {'FULL', length, component}  as many wait for the component as may
--         {'LATE', wait ms, least ms of a run}  it would not be ready by its deadline, or not start before it expires
--         {'BUDGET', 'minute' | 'large' | 'tokens' | 'cost', ms, tokens left, ms until whole}  its API key has too
--           little left; here, so that what is reserved is reserved once, for a record that is written
-- @include clock, components, documents, messages, numbers, readers, requests, terminal, wait_queue

local id = named_by(KEYS[1])
local now = now_ms()

-- What is left counts from here on: the caller's clock may be another.
local function moment(ms_left) return ms_left == '0' and 0 or now + tonumber(ms_left) end

local not_before, deadline, expires = moment(starts_in), moment(ends_in), moment(expires_in)
-- Who comes now must not be served before those who wait already, at the instance that was chosen for it.
local late_waits = false
if late ~= '' and anybody_waits() then
  local waiting, its = wait_queue(), component_of(endpoint)
  for _, one in ipairs(waiting.lists_up_to(late .. suffix)) do
    late_waits = late_waits or redis.call('EXISTS', waiting.waiting_key(its, one)) == 1
  end
  if late_waits then queue = late end
end
local r = {
  [F.endpoint] = endpoint, [F.queue] = queue, [F.suffix] = suffix, [F.message] = message, [F.tenant] = tenant,
  [F.weight] = weight,
}
local component, list = component_of(r.endpoint), queue .. suffix
-- The component's own limit: from when it may begin.
local most = limit_of(component, 'timeout')
if most then
  local latest = math.max(now, not_before) + most
  deadline = deadline == 0 and latest or math.min(deadline, latest)
end

-- A known request; nil for a new one.
local function known()
  local owner = idem ~= '' and redis.call('GET', idem)
  if owner then
    local known_id, known_digest = string.match(owner, '^(%S+) (%S*)$')
    return { known_digest == digest and 'JOINED' or 'CONFLICT', known_id }
  end
  if redis.call('EXISTS', KEYS[1]) == 1 then
    local first = idem == '' and digest ~= '' and redis.call('HGET', KEYS[1], F.digest)
    if first and first ~= digest then return { 'CONFLICT', id } end
    if reader ~= '' then add_reader(KEYS[1], id, db, reader) end
    return { 'EXISTS', id }
  end
end

-- Why it is refused: nil where there is room, and time.
local function refusal()
  -- A list whose head waits for longer than this has no worker with a free slot.
  local STUCK = 250
  local FEW = 32
  local waiting = wait_queue()

  local function waiting_before(one, where) return waiting.before(one, where, r.tenant, r.weight) end

  -- Whether the request would be among the first tenth of those who wait. Where few wait, whether it is its tenant's
  -- first.
  local function early(one, limit)
    if limit <= FEW then
      for _, other in ipairs(redis.call('SMEMBERS', waiting_of(one))) do
        if (redis.call('HGET', base .. 'req:' .. other, F.tenant) or '') == r.tenant then return false end
      end
      return true
    end
    if one ~= component then
      for _, other in ipairs(waiting.wait_queues_of(one)) do
        if waiting_before(one, other[2]) <= limit / 10 then return true end
      end
      return false
    end
    local before = 0
    for _, where in ipairs(waiting.lists_up_to(list)) do
      before = before
        + (where == list and waiting_before(one, where) or redis.call('ZCARD', waiting.waiting_key(one, where)))
    end
    return before <= limit / 10
  end

  -- At the limit there is a place for who would be served soon, up to a tenth more: else a flood that fills the queue
  -- would keep all others out of it.
  local function full()
    for one in string.gmatch(through, '%S+') do
      local limit, own = limit_of(one, 'max_queue') or math.huge, tonumber(most_waiting)
      if one == component and own > 0 then limit = math.min(limit, own) end
      if limit < math.huge then
        local length = redis.call('SCARD', waiting_of(one))
        local most = limit + math.max(1, math.floor(limit / 10))
        if length >= limit and (length >= most or not early(one, limit)) then return { 'FULL', tostring(length), one } end
      end
    end
  end

  -- Whether who comes now must wait for somebody else to end.
  local function busy(running)
    local limit = limit_of(component, 'concurrency')
    if (limit and running >= limit) or late_waits then return true end
    for _, one in ipairs(waiting.lists_up_to(list)) do
      local head = redis.call('LINDEX', one, -1)
      local head_id = head and id_of(head)
      local since = head_id and redis.call('ZSCORE', base .. 'queued', head_id)
      if since and now - tonumber(since) >= STUCK then return true end
    end
    return false
  end

  local function ahead()
    local n = 0
    for _, one in ipairs(waiting.lists_up_to(list)) do
      n = n + redis.call('LLEN', one)
      n = n + (one == list and waiting_before(component, one) or redis.call('ZCARD', waiting.waiting_key(component, one)))
    end
    return n
  end

  -- Little's law: what is ahead, times how long each takes, by how many run side by side.
  local function late()
    if (deadline == 0 and expires == 0) or not_before > now then return nil end
    local running = redis.call('SCARD', running_of(component))
    if running == 0 or not busy(running) then return nil end
    local pace = redis.call('HMGET', base .. 'pace:' .. component, 'mean', 'least')
    if not pace[1] then return nil end
    local wait, least = ahead() * tonumber(pace[1]) / running, tonumber(pace[2])
    if (deadline > 0 and now + wait + least > deadline) or (expires > 0 and now + wait > expires) then
      return { 'LATE', int(wait), int(least) }
    end
  end

  return full() or late()
end

local limited = deadline > 0 or expires > 0 or tonumber(most_waiting) > 0 or not no_limits_active()

local left_of_minute, whole_in = '0', '0'

local function queue_it()
  redis.call('SADD', namespaces, namespace)
  redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.queue, queue, F.message, message, F.created, int(now), F.endpoint,
    endpoint, unpack(ARGV, REST))
  if document ~= '' then
    redis.call('HSET', KEYS[1], F.document, '1')
    redis.call('HSET', document_of(id), 'given', document)
  end
  if not_before > 0 then redis.call('HSET', KEYS[1], F.not_before, int(not_before)) end
  if deadline > 0 then redis.call('HSET', KEYS[1], F.deadline, int(deadline)) end
  if expires > 0 then redis.call('HSET', KEYS[1], F.expires, int(expires)) end
  redis.call('ZADD', base .. 'queued', now, id)
  if reader ~= '' then
    redis.call('SADD', base .. 'clients', reader)
    redis.call('SADD', base .. 'reads:' .. reader, id)
  end
  if idem ~= '' then redis.call('SET', idem, id .. ' ' .. digest, 'PX', RECORD_TTL) end
  local ends = (deadline > 0 and (expires == 0 or deadline < expires)) and deadline or expires
  if ends > 0 then redis.call('ZADD', base .. 'timers', ends, 'd:' .. id) end
  if not_before > now then
    redis.call('ZADD', base .. 'timers', not_before, 'm:' .. id)
  else
    enter(id, r)
  end
  return { 'OK', id, left_of_minute, whole_in }
end

local function over_budget()
  -- @include reservation
  local refused, left, full_in = reserve(owner_key, budget)
  left_of_minute, whole_in = int(left or 0), int(full_in or 0)
  return refused
end

return known() or (limited and refusal()) or (budget ~= '' and over_budget()) or queue_it()
