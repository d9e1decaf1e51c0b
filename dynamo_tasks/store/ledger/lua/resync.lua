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
local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.nonce, F.readers, F.endpoint, F.queue, F.suffix, F.tenant,
  F.weight)
local top, top_epoch = top_of(KEYS[2])
local known = r.state == 'RUNNING' and r.owner == lease and r.nonce == ARGV[5]
if not r.state then
  if ARGV[8] ~= '1' then return { 'GONE' } end
elseif TERMINAL[r.state] then
  return { r.owner == lease and r.epoch == ARGV[4] and 'ENDED' or 'FENCED' }
elseif not known and (tonumber(r.epoch) or 0) >= epoch then
  return { 'FENCED' }
end
if top_epoch > epoch then return { 'FENCED' } end
if top_epoch < epoch and top ~= ARGV[7] then
  -- Somebody else went on from a point before my claim, or what my claim followed is forgotten.
  local other = not known and r.state == 'RUNNING' and redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1
  return { other and 'FENCED' or 'DIVERGED' }
end

if not r.state then
  redis.call('SADD', ARGV[9], ARGV[10])
  redis.call('HSET', KEYS[1], unpack(ARGV, 11))
  r = fields(KEYS[1], F.readers, F.endpoint, F.queue, F.suffix, F.tenant, F.weight)
end
if not known then
  if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
  redis.call('HSET', KEYS[1], F.state, 'RUNNING', F.owner, lease, F.epoch, ARGV[4], F.nonce, ARGV[5], F.attempts,
    ARGV[6],
    F.previous, ARGV[7])
  redis.call('ZREM', base .. 'queued', id)
  redis.call('SREM', waiting_of(component_of(r.endpoint)), id)
  leave_line(id, r)
  redis.call('ZREM', base .. 'timers', 'm:' .. id)
end
own(lease, id)
redis.call('SADD', running_of(component_of(r.endpoint)), id)
if top_epoch < epoch then
  local data = ARGV[7] .. '|' .. ARGV[6] .. '|' .. lease
  top = ARGV[4] .. '-0'
  redis.call('XADD', KEYS[2], top, 'k', data)
  push(r.readers, id, top, 'k', data)
end
redis.call('PERSIST', KEYS[2])
redis.call('PERSIST', KEYS[1])
return { 'OK', top, r.readers or '' }
