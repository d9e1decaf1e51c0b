#!lua flags=allow-oom
-- discard: QUEUED -> CANCELLED of what waits in a queue that is purged, for its turn or for its time. Nothing
--   follows: no worker writes a result, as none does for what Celery purges. What has ended, and has its message
--   there only for Celery's completion, is settled. Only of a part of a group or chord the completion is owed: its
--   message is sent again once, as that
--   of any completion that has not run, so that the chord's body hears of it.
-- Keeps 2, 3, 4, 6, 7, 10 of docs/ledger.md.
--
-- KEYS   1 index of QUEUED requests
-- @args base, queue, db, data, error, offset, count
--   queue: its key; data: payload of the end event; error: JSON; count: how many requests are looked at
-- returns {looked at, removed, gone from the index}
-- @include records, settled, terminal, unowned, wait_queue

local first = tonumber(offset)
local ids = redis.call('ZRANGE', KEYS[1], first, first + tonumber(count) - 1)
local removed, dropped = 0, 0
for _, id in ipairs(ids) do
  local record = base .. 'req:' .. id
  local r = fields(record, F.state, F.endpoint, F.queue, F.suffix, F.message, F.tenant, F.weight, F.owner,
    F.ignore_result)
  if r.queue == queue and (r.state == 'QUEUED' or (TERMINAL[r.state] and not r.owner)) then
    local lay = r.message and redis.call('LREM', r.queue .. (r.suffix or ''), 1, r.message) or 0
    local owed = r.ignore_result ~= '1' and r.message and string.find(r.message, '"group"%s*:%s*"')
    leave_wait_queue(id, r)
    if r.state == 'QUEUED' then end_unowned(record, base .. 'log:' .. id, id, db, data, 'CANCELLED', error) end
    if r.state == 'QUEUED' or lay > 0 or not owed then removed = removed + 1 end
    if not owed then
      redis.call('HSET', record, F.settled, '1')
      redis.call('ZREM', KEYS[1], id)
      settled(record)
      dropped = dropped + 1
    end
  end
end
return { #ids, removed, dropped }
