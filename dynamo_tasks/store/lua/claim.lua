-- claim: QUEUED -> RUNNING by one attempt of one instance. Idempotent by nonce.
-- Keeps 1, 2, 3, 5, 9 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 lease hex, 4 nonce, 5 retry number of the message, 6 '1' if the message carries our header,
--        7 key of the set of namespaces, 8 namespace, 9 protocol version that the instance speaks,
--        10... field, value for the record of a message without one
-- returns {'OK', epoch, previous id, attempt, readers, deadline ms, {field, value, ... to restore the record from}}
--         {'UNSETTLED', state, result JSON, error JSON}  ended, but Celery's tail did not run to its end
--         {'DUPLICATE'}     owned by a live instance, ended, or superseded by a retry: ack and drop
--         {'GONE'}          it has our header, but its record is gone: drop
--         {'EXPIRED'}       its deadline has passed: the caller ends it
--         {'NEWER'}         it needs a newer worker: kept for one, drop the message
--         {'WAIT', ms}      not yet: before its time, or a retry that overtook the end of the last attempt
local id, lease, nonce, retry = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local r = fields(KEYS[1], 'v', 'st', 'q', 'own', 'non', 'ep', 'att', 'ret', 'nb', 'dl', 'ex', 'rd', 'set', 'out', 'err', 'prev')
local now = now_ms()

-- Everything but what attempts change: a field that only a newer release knows is kept as well.
local CHANGING = {
  st = true, msg = true, nb = true, rd = true, own = true, non = true, ep = true, att = true, prev = true, stt = true,
  bar = true, tp = true, ['end'] = true, fin = true, set = true, out = true, err = true, ex = true,
}

local function restorable()
  local all, out = redis.call('HGETALL', KEYS[1]), {}
  for i = 1, #all, 2 do
    if not CHANGING[all[i]] then
      out[#out + 1] = all[i]
      out[#out + 1] = all[i + 1]
    end
  end
  return out
end

if not r.st then
  if ARGV[6] == '1' then return { 'GONE' } end
  redis.call('SADD', ARGV[7], ARGV[8])
  redis.call('HSET', KEYS[1], 'cr', int(now), 'rd', '', 'ret', ARGV[5], unpack(ARGV, 10))
  r = fields(KEYS[1], 'own', 'ep', 'att', 'ret', 'nb', 'dl', 'rd')
  r.st = 'QUEUED'
end

if r.st == 'QUEUED' and (tonumber(r.v) or 0) > tonumber(ARGV[9]) then
  -- Whoever takes it next may be a newer one; never an instance that was chosen without regard to that.
  redis.call('HSET', KEYS[1], 'q', (shared_queue(r.q)))
  redis.call('ZADD', base .. 'timers', now + 200, 'm:' .. id)
  return { 'NEWER' }
end

if TERMINAL[r.st] then
  if r.set == '1' then return { 'DUPLICATE' } end
  if r.own and r.own ~= lease and redis.call('EXISTS', base .. 'lease:' .. r.own) == 1 then return { 'DUPLICATE' } end
  -- Who runs the tail owns it: if it dies as well, the message is sent once more.
  if r.own then redis.call('SREM', base .. 'owned:' .. r.own, id) end
  redis.call('ZREM', base .. 'queued', id)
  redis.call('HSET', KEYS[1], 'own', lease)
  own(lease, id)
  return { 'UNSETTLED', r.st, r.out or '', r.err or '' }
end

if r.st == 'RUNNING' then
  if r.own == lease and r.non == nonce then
    return { 'OK', r.ep, r.prev, r.att, r.rd or '', r.dl or '0', restorable() }
  end
  if redis.call('EXISTS', base .. 'lease:' .. r.own) == 1 then
    if retry > (tonumber(r.ret) or 0) then return { 'WAIT', '1000' } end
    return { 'DUPLICATE' }
  end
  redis.call('SREM', base .. 'owned:' .. r.own, id)
  if top_of(KEYS[2]) == r.ep .. '-0' then redis.call('HINCRBY', KEYS[1], 'bar', 1) end
end

-- Only a release raises the number: it must stay that of the message which the record keeps to be sent again.
if retry < (tonumber(r.ret) or 0) then return { 'DUPLICATE' } end
if (tonumber(r.dl) or 0) > 0 and now >= tonumber(r.dl) then return { 'EXPIRED' } end
if (tonumber(r.ex) or 0) > 0 and now >= tonumber(r.ex) and (tonumber(r.att) or 0) == 0 then return { 'EXPIRED' } end
if (tonumber(r.nb) or 0) > now then return { 'WAIT', int(tonumber(r.nb) - now) } end

local previous, top = top_of(KEYS[2])
local epoch = int(math.max(now, (tonumber(r.ep) or 0) + 1, top + 1))
local attempt = int((tonumber(r.att) or 0) + 1)
local event_id = epoch .. '-0'
local data = previous .. '|' .. attempt .. '|' .. lease
redis.call('XADD', KEYS[2], event_id, 'k', data)
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[1], 'st', 'RUNNING', 'own', lease, 'non', nonce, 'ep', epoch, 'att', attempt,
  'prev', previous, 'stt', int(now))
own(lease, id)
redis.call('ZREM', base .. 'queued', id)
redis.call('ZREM', base .. 'timers', 'm:' .. id, 'd:' .. id)
if (tonumber(r.dl) or 0) > 0 then redis.call('ZADD', base .. 'timers', tonumber(r.dl) + 1000, 'd:' .. id) end
push(r.rd, id, event_id, 'k', data)
return { 'OK', epoch, previous, attempt, r.rd or '', r.dl or '0', restorable() }
