-- resync: what does the server know of an open request of mine? Restores a claim that it forgot.
-- Keeps 1, 2, 3 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, lease, claimed, nonce, attempt, previous, new_server, namespaces, namespace, ...
--   lease: hex; claimed: epoch; previous: id before the claim; new_server: '1' = it has another run_id: restore a
--   record that is gone; namespaces: key of their set; ...: field, value of the record
-- returns {'OK', id on top of the log, readers} | {'ENDED'} by me | {'FENCED'} | {'GONE'} | {'DIVERGED'}
-- @include components, owners, push, records, stream, terminal, wait_queue

local epoch = tonumber(claimed)
local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.nonce, F.readers, F.endpoint, F.queue, F.suffix, F.tenant,
  F.weight)
local top, top_epoch = top_of(KEYS[2])
local known = r.state == 'RUNNING' and r.owner == lease and r.nonce == nonce
if not r.state then
  if new_server ~= '1' then return { 'GONE' } end
elseif TERMINAL[r.state] then
  return { r.owner == lease and r.epoch == claimed and 'ENDED' or 'FENCED' }
elseif not known and (tonumber(r.epoch) or 0) >= epoch then
  return { 'FENCED' }
end
if top_epoch > epoch then return { 'FENCED' } end
if top_epoch < epoch and top ~= previous then
  -- Somebody else went on from a point before my claim, or what my claim followed is forgotten.
  local other = not known and r.state == 'RUNNING' and redis.call('EXISTS', base .. 'lease:' .. r.owner) == 1
  return { other and 'FENCED' or 'DIVERGED' }
end

if not r.state then
  redis.call('SADD', namespaces, namespace)
  redis.call('HSET', KEYS[1], unpack(ARGV, REST))
  r = fields(KEYS[1], F.readers, F.endpoint, F.queue, F.suffix, F.tenant, F.weight)
end
if not known then
  if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
  redis.call('HSET', KEYS[1], F.state, 'RUNNING', F.owner, lease, F.epoch, claimed, F.nonce, nonce, F.attempts, attempt,
    F.previous, previous)
  redis.call('ZREM', base .. 'queued', id)
  redis.call('SREM', waiting_of(component_of(r.endpoint)), id)
  leave_wait_queue(id, r)
  redis.call('ZREM', base .. 'timers', 'm:' .. id)
end
own(lease, id)
redis.call('SADD', running_of(component_of(r.endpoint)), id)
if top_epoch < epoch then
  local data = previous .. '|' .. attempt .. '|' .. lease
  top = claimed .. '-0'
  redis.call('XADD', KEYS[2], top, 'k', data)
  push(r.readers, id, top, 'k', data)
end
redis.call('PERSIST', KEYS[2])
redis.call('PERSIST', KEYS[1])
return { 'OK', top, r.readers or '' }
