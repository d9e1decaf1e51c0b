-- job_note: keep the statistics of a service with its job.
--
-- KEYS   1 job
-- ARGV   1 base, 2 service, 3 statistics (JSON)
-- returns 'OK' | 'GONE' no such job
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
redis.call('HSET', KEYS[1], 'service:' .. ARGV[2], ARGV[3])
return 'OK'
