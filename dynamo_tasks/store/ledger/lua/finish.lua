#!lua flags=allow-oom
-- finish: RUNNING -> SUCCEEDED | FAILED by the owner: last event, state and push in one.
-- Keeps 1, 4, 5, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 lease hex, 4 epoch, 5 id that must be on top of the log, 6 id of the end event,
--        7 its payload, 8 state, 9 result JSON ('' = none), 10 error JSON ('' = none), 11 '1' = nothing follows (settled)
--        and, where Celery's tail is a result and no more, 12 its key, 13 seconds to keep it (0 = for ever), 14 the result,
--        15 a further channel that is told ('' = none)
-- returns 'OK' | 'FENCED' another attempt or an end | 'GONE' no record | 'BEHIND' another id is on top: resync
-- @include base, clock, components, numbers, push, records, settled, stream, summary, terminal, wait_queue

-- How long a run takes: on average, and the shortest in recent times. Submit judges deadlines by it, where somebody
-- waits or a component has limits; else nobody asks.
local function note_service(component, ms)
  if all_calm() then return end
  local key = base .. 'pace:' .. component
  local known = redis.call('HMGET', key, 'mean', 'least')
  local mean, least = tonumber(known[1] or nil) or ms, tonumber(known[2] or nil) or ms
  redis.call('HSET', key, 'mean', real(mean + (ms - mean) / 10), 'least', real(math.min(ms, least + (ms - least) / 20)))
  if not known[1] then redis.call('PEXPIRE', key, 3600000) end
end

local id, lease, epoch = ARGV[2], ARGV[3], ARGV[4]
local is_over = ARGV[11] == '1'
local r = is_over and whole(KEYS[1])
  or fields(KEYS[1], F.state, F.owner, F.epoch, F.readers, F.retention, F.end_id, F.endpoint, F.started)
if not r.state then return 'GONE' end
if r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
if TERMINAL[r.state] then return r.end_id == ARGV[6] and 'OK' or 'FENCED' end
if r.state ~= 'RUNNING' then return 'FENCED' end
local top, top_epoch = top_of(KEYS[2])
if top_epoch > tonumber(epoch) then return 'FENCED' end
if top ~= ARGV[5] then return 'BEHIND' end
redis.call('XADD', KEYS[2], 'NOMKSTREAM', ARGV[6], 'e', ARGV[7])
local ended = {
  F.state, ARGV[8], F.end_id, ARGV[6], F.finished, int(now_ms()), F.settled, ARGV[11], F.result, ARGV[9],
  F.error, ARGV[10], unpack(summary(ARGV[7])),
}
-- Until Celery's tail has run to its end, the message and the owner stay, so that somebody can run it again.
if is_over and not r.dead_message then
  for i = 1, #ended, 2 do r[ended[i]] = ended[i + 1] end
  rewrite(KEYS[1], r)
else
  redis.call('HSET', KEYS[1], unpack(ended))
  if is_over then settled(KEYS[1]) end
end
redis.call('PEXPIRE', KEYS[1], RECORD_TTL)
if is_over then
  redis.call('SREM', base .. 'owned:' .. lease, id)
end
redis.call('PEXPIRE', KEYS[2], math.min(tonumber(r.retention) or 3600000, RECORD_TTL))
redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
push(r.readers, id, ARGV[6], 'e', ARGV[7])
if ARGV[12] then
  if ARGV[13] == '0' then redis.call('SET', ARGV[12], ARGV[14]) else redis.call('SETEX', ARGV[12], ARGV[13], ARGV[14]) end
  redis.call('PUBLISH', ARGV[12], ARGV[14])
  if (ARGV[15] or '') ~= '' then redis.call('PUBLISH', ARGV[15], ARGV[14]) end
end
local component = component_of(r.endpoint)
redis.call('SREM', running_of(component), id)
if ARGV[8] == 'SUCCEEDED' then note_service(component, now_ms() - (tonumber(r.started) or now_ms())) end
admit(component)
return 'OK'
