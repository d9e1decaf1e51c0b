-- resync: what does the server know of an open request of mine? Restores a claim that it forgot.
-- Keeps 1, 2, 3 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 lease hex, 4 epoch, 5 nonce, 6 attempt, 7 previous id (of the claim),
--        8 '1' = the server is a new one (other run_id): restore a record that is gone, 9 key of the set of namespaces,
--        10 namespace, 11... field, value of the record
-- returns {'OK', id on top of the log, readers} | {'ENDED'} by me | {'FENCED'} | {'GONE'} | {'DIVERGED'}
-- @include base, components, owners, push, records, stream, terminal, wait_queue

local id, lease, epoch = ARGV[2], ARGV[3], tonumber(ARGV[4])
local r = fields(KEYS[1], 'st', 'own', 'ep', 'non', 'rd', 'en', 'q', 'qs', 'tn', 'tw')
local top, top_epoch = top_of(KEYS[2])
local known = r.st == 'RUNNING' and r.own == lease and r.non == ARGV[5]
if not r.st then
  if ARGV[8] ~= '1' then return { 'GONE' } end
elseif TERMINAL[r.st] then
  return { r.own == lease and r.ep == ARGV[4] and 'ENDED' or 'FENCED' }
elseif not known and (tonumber(r.ep) or 0) >= epoch then
  return { 'FENCED' }
end
if top_epoch > epoch then return { 'FENCED' } end
if top_epoch < epoch and top ~= ARGV[7] then
  -- Somebody else went on from a point before my claim, or what my claim followed is forgotten.
  local other = not known and r.st == 'RUNNING' and redis.call('EXISTS', base .. 'lease:' .. r.own) == 1
  return { other and 'FENCED' or 'DIVERGED' }
end

if not r.st then
  redis.call('SADD', ARGV[9], ARGV[10])
  redis.call('HSET', KEYS[1], unpack(ARGV, 11))
  r = fields(KEYS[1], 'rd', 'en', 'q', 'qs', 'tn', 'tw')
end
if not known then
  if r.own then redis.call('SREM', base .. 'owned:' .. r.own, id) end
  redis.call('HSET', KEYS[1], 'st', 'RUNNING', 'own', lease, 'ep', ARGV[4], 'non', ARGV[5], 'att', ARGV[6],
    'prev', ARGV[7])
  redis.call('ZREM', base .. 'queued', id)
  redis.call('SREM', waiting_of(component_of(r.en)), id)
  leave_line(id, r)
  redis.call('ZREM', base .. 'timers', 'm:' .. id)
end
own(lease, id)
redis.call('SADD', running_of(component_of(r.en)), id)
if top_epoch < epoch then
  local data = ARGV[7] .. '|' .. ARGV[6] .. '|' .. lease
  top = ARGV[4] .. '-0'
  redis.call('XADD', KEYS[2], top, 'k', data)
  push(r.rd, id, top, 'k', data)
end
redis.call('PERSIST', KEYS[2])
redis.call('PERSIST', KEYS[1])
return { 'OK', top, r.rd or '' }
