-- revive: FAILED -> QUEUED for a request that had used up its attempts: from its beginning, all attempts anew.
--   Its log goes with its end; the epochs go on, so that no former owner can write.
-- Keeps 4, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id
-- returns 'OK' | 'NOT' it is not in the dead list | 'GONE' its record, or its message, is past its retention
-- @include clock, documents, numbers, records, wait_queue

if not redis.call('ZSCORE', base .. 'dead', id) then return 'NOT' end
redis.call('ZREM', base .. 'dead', id)
local r = fields(KEYS[1], F.state, F.owner, F.endpoint, F.queue, F.suffix, F.dead_message, F.tenant, F.weight,
  F.document)
if r.state ~= 'FAILED' or not r.dead_message then return 'GONE' end
local list = r.queue .. (r.suffix or '')
redis.call('DEL', KEYS[2])
-- Celery's completion of its end may still run; it has nothing to settle any more.
if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
redis.call('LREM', list, 0, r.dead_message)
redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.message, r.dead_message, F.attempts, '0', F.idle_attempts, '0',
  F.not_before, '0', F.deadline, '0', F.expires, '0', F.created, int(now_ms()), F.settled, '0')
redis.call('HDEL', KEYS[1], F.dead_message, F.owner, F.nonce, F.end_id, F.error, F.result, F.finished, F.started)
redis.call('PERSIST', KEYS[1])
if r.document then redis.call('PERSIST', document_of(id)) end
redis.call('ZADD', base .. 'queued', now_ms(), id)
r.message = r.dead_message
enter(id, r)
return 'OK'
