#!lua flags=allow-oom
-- finish: RUNNING -> SUCCEEDED | FAILED by the owner: last event, state and push in one.
-- Keeps 1, 4, 5, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record
-- @args base, lease, epoch, expected, event_id, data, state, result, error, is_settled, result_key, result_ttl,
--       kept_result, channel, used, ttft
--   lease: hex; expected: id that must be on top of the stream; event_id, data: of the end event; result, error: JSON,
--   '' = none; is_settled: '1' = nothing follows. Where Celery's result is all that follows, result_key ('' = else):
--   its key, result_ttl: seconds to keep it (0 = for ever), kept_result, channel: a further one that it goes to ('' =
--   none); used: tokens of prompt, answer, of these cached and of reasoning ('' = not said), ttft: ms until the first
--   one (-1 = not known), for the account of its API key
-- returns 'OK' | 'FENCED' another attempt or an end | 'GONE' no record | 'BEHIND' another id is on top: resync
-- @include clock, components, documents, numbers, push, records, requests, settled, stream, summary, terminal, wait_queue

local id, log = named_by(KEYS[1])

-- How long a run takes: on average, and the shortest in recent times. Submit judges deadlines by it, where somebody
-- waits or a component has limits; else nobody asks.
local function note_service(component, ms)
  if no_limits_active() then return end
  local key = base .. 'pace:' .. component
  local known = redis.call('HMGET', key, 'mean', 'least')
  local mean, least = tonumber(known[1] or nil) or ms, tonumber(known[2] or nil) or ms
  redis.call('HSET', key, 'mean', real(mean + (ms - mean) / 10), 'least', real(math.min(ms, least + (ms - least) / 20)))
  if not known[1] then redis.call('PEXPIRE', key, 3600000) end
end

local is_over = is_settled == '1'
local r = is_over and whole(KEYS[1])
  or fields(KEYS[1], F.state, F.owner, F.epoch, F.readers, F.retention, F.end_id, F.endpoint, F.started,
    F.document, F.account, F.owner_key, F.created)
if not r.state then return 'GONE' end
if r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
if TERMINAL[r.state] then return r.end_id == event_id and 'OK' or 'FENCED' end
if r.state ~= 'RUNNING' then return 'FENCED' end
local top, top_epoch = top_of(log)
if top_epoch > tonumber(epoch) then return 'FENCED' end
if top ~= expected then return 'BEHIND' end
redis.call('XADD', log, 'NOMKSTREAM', event_id, 'e', data)
local ended = {
  F.state, state, F.end_id, event_id, F.finished, int(now_ms()), F.settled, is_settled, F.result, result,
  F.error, error, unpack(summary(data)),
}
if r.account then
  -- @include charge
  account_ends(log, r, state, used, tonumber(ttft))
  -- Where the record is written anew below, it is left out.
  if not is_over or r.dead_message then redis.call('HDEL', KEYS[1], F.account) end
  r.account = nil
end
redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))
document_ends(id, r, RECORD_TTL)
-- Until Celery's completion has run to its end, the message and the owner stay, so that somebody can run it again.
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
redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
push(r.readers, id, event_id, 'e', data)
if result_key ~= '' then
  if result_ttl == '0' then redis.call('SET', result_key, kept_result)
  else redis.call('SETEX', result_key, result_ttl, kept_result) end
  redis.call('PUBLISH', result_key, kept_result)
  if channel ~= '' then redis.call('PUBLISH', channel, kept_result) end
end
local component = component_of(r.endpoint)
redis.call('SREM', running_of(component), id)
if state == 'SUCCEEDED' then note_service(component, now_ms() - (tonumber(r.started) or now_ms())) end
admit(component)
return 'OK'
