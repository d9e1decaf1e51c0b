#!lua flags=allow-oom
-- discard: QUEUED -> CANCELLED of what waits in a queue that is purged, for its turn or for its time. Nothing follows: no
--   worker writes a result, as none does for what Celery purges. What has ended, and has its message there only for
--   Celery's tail, is settled.
-- Keeps 2, 3, 4, 6, 7, 10 of docs/ledger.md.
--
-- KEYS   1 index of QUEUED requests
-- ARGV   1 base, 2 key of the queue, 3 database number, 4 payload of the end event, 5 error JSON, 6 offset,
--        7 how many requests are looked at
-- returns {looked at, removed}
local first = tonumber(ARGV[6])
local ids = redis.call('ZRANGE', KEYS[1], first, first + tonumber(ARGV[7]) - 1)
local removed = 0
for _, id in ipairs(ids) do
  local record = base .. 'req:' .. id
  local r = fields(record, 'st', 'en', 'q', 'qs', 'msg', 'tn', 'tw', 'own')
  if r.q == ARGV[2] and (r.st == 'QUEUED' or (TERMINAL[r.st] and not r.own)) then
    if r.msg then redis.call('LREM', r.q .. (r.qs or ''), 1, r.msg) end
    leave_line(id, r)
    if r.st == 'QUEUED' then end_unowned(record, base .. 'log:' .. id, id, ARGV[3], ARGV[4], 'CANCELLED', ARGV[5]) end
    redis.call('HSET', record, 'set', '1')
    redis.call('ZREM', KEYS[1], id)
    settled(record)
    removed = removed + 1
  end
end
return { #ids, removed }
