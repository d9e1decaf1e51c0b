-- expire: QUEUED -> EXPIRED: the deadline or Celery's `expires` passed before a worker started it.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 database number, 4 payload of the end event, 5 error JSON
-- returns 'OK' | 'ENDED' | 'GONE' | 'RUNNING' it was started in time
local state = redis.call('HGET', KEYS[1], 'st')
if not state then return 'GONE' end
if TERMINAL[state] then return 'ENDED' end
if state == 'RUNNING' then return 'RUNNING' end
end_unowned(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], 'EXPIRED', ARGV[5])
return 'OK'
