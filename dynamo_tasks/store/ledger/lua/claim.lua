-- claim: QUEUED -> RUNNING by one attempt of one instance. Idempotent by nonce.
-- Keeps 1, 2, 3, 5, 9 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 lease hex, 4 nonce, 5 retry number of the message, 6 '1' if the message carries our header,
--        7 key of the set of namespaces, 8 namespace, 9 protocol version that the instance speaks, 10 component,
--        11... field, value for the record of a message without one
-- returns {'OK', epoch, previous id, attempt, readers, ms until its deadline (0 = none), {field, value, ... to restore the record from},
--          ms that it waited}
--         {'UNSETTLED', state, result JSON, error JSON}  ended, but Celery's tail did not run to its end
--         {'DUPLICATE'}     owned by a live instance, ended, superseded by a retry, or meant for another component (it was
--                           forwarded since, and has another message): ack and drop
--         {'GONE'}          it has our header, but its record is gone: drop
--         {'EXPIRED'}       its deadline has passed: the caller ends it
--         {'NEWER'}         it needs a newer worker: kept for one, drop the message
--         {'WAIT', ms}      not yet: before its time, or a retry that overtook the end of the last attempt
--         {'FULL'}          the component runs as many as it may: it stands at the front of the line; ack and drop
-- @include base, clock, components, messages, numbers, owners, push, records, stream, terminal, wait_queue

local id, lease, nonce, retry, component = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[10]
local r = whole(KEYS[1])
local now = now_ms()

-- Everything but what attempts change: a field that only a newer release knows is kept as well.
local CHANGING = {
  st = true, msg = true, nb = true, rd = true, own = true, non = true, ep = true, att = true, prev = true, stt = true,
  bar = true, tp = true, ['end'] = true, fin = true, set = true, out = true, err = true, ex = true,
}

local function restorable()
  local out = {}
  for name, value in pairs(r) do
    if not CHANGING[name] then
      out[#out + 1] = name
      out[#out + 1] = value
    end
  end
  return out
end

local function granted(epoch, previous, attempt, waited)
  local deadline = tonumber(r.dl) or 0
  local left = deadline > 0 and int(math.max(1, deadline - now)) or '0'
  return { 'OK', epoch, previous, attempt, r.rd or '', left, restorable(), waited }
end

-- A message without a record gets one.
local function record_it()
  redis.call('SADD', ARGV[7], ARGV[8])
  redis.call('HSET', KEYS[1], 'st', 'QUEUED', 'cr', int(now), 'ret', ARGV[5], unpack(ARGV, 11))
  r = whole(KEYS[1])
end

local function tail_again()
  if r.set == '1' then return { 'DUPLICATE' } end
  if r.own and r.own ~= lease and redis.call('EXISTS', base .. 'lease:' .. r.own) == 1 then return { 'DUPLICATE' } end
  -- Who runs the tail owns it: if it dies as well, the message is sent once more.
  if r.own then redis.call('SREM', base .. 'owned:' .. r.own, id) end
  redis.call('ZREM', base .. 'queued', id)
  redis.call('HSET', KEYS[1], 'own', lease)
  own(lease, id)
  return { 'UNSETTLED', r.st, r.out or '', r.err or '' }
end

-- A claim of a request that runs: refused, unless it is the same claim again or its owner is dead. Whether this claim may
-- take it over is not known yet: until then the dead owner keeps it, so that its recovery finds it.
local function of_running()
  if r.own == lease and r.non == nonce then return granted(r.ep, r.prev, r.att, '0') end
  if redis.call('EXISTS', base .. 'lease:' .. r.own) == 1 then
    if retry > (tonumber(r.ret) or 0) then return { 'WAIT', '1000' } end
    return { 'DUPLICATE' }
  end
end

local function take_from_the_dead(top)
  redis.call('SREM', base .. 'owned:' .. r.own, id)
  if top == r.ep .. '-0' then redis.call('HINCRBY', KEYS[1], 'bar', 1) end
end

-- Whoever takes it next may be a newer one; never an instance that was chosen without regard to that.
local function too_new()
  if r.st ~= 'QUEUED' or (tonumber(r.v) or 0) <= tonumber(ARGV[9]) then return nil end
  redis.call('HSET', KEYS[1], 'q', (shared_queue(r.q)))
  redis.call('ZADD', base .. 'timers', now + 200, 'm:' .. id)
  return { 'NEWER' }
end

-- Only a release raises the retry number: it must stay that of the message which the record keeps to be sent again.
local function too_early_or_late()
  if retry < (tonumber(r.ret) or 0) then return { 'DUPLICATE' } end
  if (tonumber(r.dl) or 0) > 0 and now >= tonumber(r.dl) then return { 'EXPIRED' } end
  if (tonumber(r.ex) or 0) > 0 and now >= tonumber(r.ex) and (tonumber(r.att) or 0) == 0 then return { 'EXPIRED' } end
  if (tonumber(r.nb) or 0) > now then return { 'WAIT', int(tonumber(r.nb) - now) } end
end

-- The bound of the component as a whole. Who takes over what a dead instance ran takes its place, too.
local function too_many()
  local limit, running = limit_of(component, 'concurrency'), running_of(component)
  if not limit or r.st == 'RUNNING' or redis.call('SCARD', running) < limit then return nil end
  redis.call('ZADD', base .. 'queued', 'NX', tonumber(r.cr) or now, id)
  redis.call('SADD', waiting_of(component), id)
  the_line().stand_in_front(component, r.q .. (r.qs or ''), id, tonumber(r.cr) or now)
  return { 'FULL' }
end

local function start()
  local previous, top = top_of(KEYS[2])
  if r.st == 'RUNNING' then take_from_the_dead(previous) end
  local epoch = int(math.max(now, (tonumber(r.ep) or 0) + 1, top + 1))
  local attempt = int((tonumber(r.att) or 0) + 1)
  local event_id = epoch .. '-0'
  local data = previous .. '|' .. attempt .. '|' .. lease
  redis.call('XADD', KEYS[2], event_id, 'k', data)
  redis.call('PERSIST', KEYS[2])
  redis.call('HSET', KEYS[1], 'st', 'RUNNING', 'own', lease, 'non', nonce, 'ep', epoch, 'att', attempt,
    'prev', previous, 'stt', int(now))
  own(lease, id)
  -- A message that had no record, or whose owner was dead, did not wait.
  if redis.call('SMOVE', waiting_of(component), running_of(component), id) == 0 then
    redis.call('SADD', running_of(component), id)
  end
  redis.call('ZREM', base .. 'queued', id)
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'd:' .. id)
  leave_line(id, r)
  if (tonumber(r.dl) or 0) > 0 then redis.call('ZADD', base .. 'timers', tonumber(r.dl) + 1000, 'd:' .. id) end
  push(r.rd, id, event_id, 'k', data)
  return granted(epoch, previous, attempt, int(now - math.max(tonumber(r.cr) or now, tonumber(r.nb) or 0)))
end

-- The component's own limit of time, for what came before its workers, or as a bare Celery message.
local function bound()
  local most = limit_of(component, 'timeout')
  if not most or r.dl or r.st ~= 'QUEUED' then return end
  r.dl = int(math.max(tonumber(r.cr) or now, tonumber(r.nb) or 0) + most)
  redis.call('HSET', KEYS[1], 'dl', r.dl)
end

local function answer()
  if not r.st then
    if ARGV[6] == '1' then return { 'GONE' } end
    record_it()
  end
  if r.en and component_of(r.en) ~= component then return { 'DUPLICATE' } end
  bound()
  if TERMINAL[r.st] then return tail_again() end
  local refused = r.st == 'RUNNING' and of_running() or nil
  return refused or too_new() or too_early_or_late() or too_many() or start()
end

local reply = answer()
-- Whatever became of it: its message was taken from the list.
admit(component)
return reply
