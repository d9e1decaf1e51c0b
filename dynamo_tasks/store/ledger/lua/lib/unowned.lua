-- @include alive, clock, components, documents, numbers, push, records, settled, stream, summary, terminal, wait_queue

-- The payload of an end event with the id that it follows: one field more in its msgpack map.
local function naming(data, previous)
  return string.char(string.byte(data, 1) + 1) .. string.sub(data, 2) .. mp_str('previous') .. mp_str(previous)
end

-- A request that no owner will end (any more): its last event is written here.
-- Creates the stream where there is none. The epoch that it takes fences the owner.
-- Celery's completion, unless no result is kept, is left to the owner (if it dies, the message is sent again), or to
-- any worker that receives the message (it is looked for as long as that has not happened).
local function end_unowned(record, log, id, db, data, state, outcome_error)
  local r = fields(record, F.state, F.owner, F.epoch, F.readers, F.background, F.retention, F.ignore_result,
    F.endpoint, F.queue, F.suffix, F.tenant, F.weight, F.document, F.account, F.owner_key,
    F.created, F.started)
  local previous, top = top_of(log)
  data = naming(data, previous)
  local epoch = math.max(now_ms(), (tonumber(r.epoch) or 0) + 1, top + 1)
  if r.state == 'RUNNING' then epoch = math.max((tonumber(r.epoch) or 0) + 1, top + 1) end
  local event_id = int(epoch) .. '-0'
  redis.call('XADD', log, event_id, 'e', data)
  redis.call('HSET', record, F.state, state, F.epoch, int(epoch), F.end_id, event_id, F.error, outcome_error,
    F.finished, int(now_ms()), F.settled, r.ignore_result == '1' and '1' or '0', unpack(summary(data)))
  redis.call('HDEL', record, F.nonce, F.account)
  if r.account then
    -- @include charge
    account_ends(log, r, state, '', -1)
  end
  redis.call('PEXPIRE', record, RECORD_TTL)
  document_ends(id, r, RECORD_TTL)
  if r.ignore_result == '1' then
    redis.call('HDEL', record, F.owner)
    redis.call('ZREM', base .. 'queued', id)
    if r.owner then redis.call('SREM', base .. 'owned:' .. r.owner, id) end
    settled(record, r.state == 'QUEUED')
  end
  redis.call('PEXPIRE', log, math.min(tonumber(r.retention) or 3600000, RECORD_TTL))
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
  push(r.readers, id, event_id, 'e', data)
  if r.owner then
    redis.call('PUBLISH', alive_channel(db, r.owner), 'abort ' .. id .. ' ' .. (r.epoch or '0') .. ' ' .. state)
  end
  local component = component_of(r.endpoint)
  redis.call('SREM', running_of(component), id)
  if r.state == 'QUEUED' then
    redis.call('SREM', waiting_of(component), id)
    -- Where Celery's completion is owed, the message still has to arrive, in its turn.
    if r.ignore_result == '1' then leave_wait_queue(id, r) end
  end
  admit(component)
  return event_id
end
