-- submit: (nothing) -> QUEUED. Writes the ledger record and pushes the Celery message, or does neither.
-- Keeps 2, 8, 9 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 key of the set of namespaces, 3 namespace, 4 id, 5 queue key without priority,
--        6 priority suffix, 7 not_before ms (0 = now), 8 deadline ms (0 = none), 9 reader channel ('' = none),
--        10 queue limit (0 = none), 11 idempotency key ('' = none), 12 payload digest, 13 message,
--        14 priority separator, 15 priority steps separated by spaces,
--        16 database number, 17... field, value of the record
-- returns {'OK', id}          queued
--         {'EXISTS', id}      the id is known: a publish that was sent twice, or a child call of a re-run parent
--         {'JOINED', id}      the idempotency key belongs to this request, same payload
--         {'CONFLICT', id}    ..., another payload
--         {'FULL', length}    the queue is at its limit
local id, queue, suffix = ARGV[4], ARGV[5], ARGV[6]
local not_before, deadline, reader = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local limit, idem, digest, message = tonumber(ARGV[10]), ARGV[11], ARGV[12], ARGV[13]

if idem ~= '' then
  local known = redis.call('GET', idem)
  if known then
    local known_id, known_digest = string.match(known, '^(%S+) (%S*)$')
    return { known_digest == digest and 'JOINED' or 'CONFLICT', known_id }
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  if reader ~= '' then add_reader(KEYS[1], id, ARGV[16], reader) end
  return { 'EXISTS', id }
end

if limit > 0 then
  local length = 0
  for step in string.gmatch(ARGV[15], '%S+') do
    length = length + redis.call('LLEN', step == '0' and queue or (queue .. ARGV[14] .. step))
  end
  if length >= limit then return { 'FULL', tostring(length) } end
end

local now = now_ms()
redis.call('SADD', ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], 'st', 'QUEUED', 'q', queue, 'qs', suffix, 'msg', message, 'cr', int(now),
  'nb', ARGV[7], 'dl', ARGV[8], 'rd', reader, unpack(ARGV, 17))
redis.call('ZADD', base .. 'queued', now, id)
if reader ~= '' then
  redis.call('SADD', base .. 'clients', reader)
  redis.call('SADD', base .. 'reads:' .. reader, id)
end
if idem ~= '' then redis.call('SET', idem, id .. ' ' .. digest, 'PX', RECORD_TTL) end
local expires = tonumber(redis.call('HGET', KEYS[1], 'ex')) or 0
if deadline > 0 and (expires == 0 or deadline < expires) then expires = deadline end
if expires > 0 then redis.call('ZADD', base .. 'timers', expires, 'd:' .. id) end
if not_before > now then
  redis.call('ZADD', base .. 'timers', not_before, 'm:' .. id)
else
  redis.call('LPUSH', queue .. suffix, message)
end
return { 'OK', id }
