#!lua flags=allow-oom
-- cancel: QUEUED | RUNNING -> CANCELLED | FAILED by anybody. The running owner is fenced and told.
-- Keeps 2, 3, 4, 6, 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, db, data, state, error, guard
--   data: payload of the end event; error: JSON;
--   guard: '' = always, 'unread' = only while nobody reads and it is not a background request,
--     'due' = only once its deadline has passed, 'queued' = only while QUEUED,
--     'awaited' = only while QUEUED, where somebody reads it and it is not a background request,
--     'only <channel>' = only while no other client reads
-- returns 'OK' | 'ENDED' it has ended before | 'GONE' | 'GUARDED'
-- @include clock, records, terminal, unowned

local r = fields(KEYS[1], F.state, F.readers, F.background, F.deadline)
local timers = base .. 'timers'
if not r.state or TERMINAL[r.state] then
  redis.call('ZREM', timers, 'm:' .. id, 'a:' .. id, 'd:' .. id)
  return r.state and 'ENDED' or 'GONE'
end
if guard == 'unread' and ((r.readers and r.readers ~= '') or r.background == '1') then
  redis.call('ZREM', timers, 'a:' .. id)
  return 'GUARDED'
end
if guard == 'due' then
  local deadline = tonumber(r.deadline) or 0
  if deadline == 0 then redis.call('ZREM', timers, 'd:' .. id) end
  if deadline == 0 or now_ms() < deadline then return 'GUARDED' end
end
local only = string.match(guard, '^only (.*)$')
if only and r.readers and r.readers ~= '' and r.readers ~= only then return 'GUARDED' end
if (guard == 'queued' or guard == 'awaited') and r.state ~= 'QUEUED' then return 'GUARDED' end
if guard == 'awaited' and (r.background == '1' or not r.readers or r.readers == '') then return 'GUARDED' end
end_unowned(KEYS[1], KEYS[2], id, db, data, state, error)
return 'OK'
