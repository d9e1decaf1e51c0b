-- job_note: keep the statistics of a service with its job. The first ones say that the service has begun.
--
-- KEYS   1 job
-- ARGV   1 base, 2 service, 3 statistics (JSON), 4 channel of the job
-- returns 'OK' | 'GONE' no such job
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('HSET', KEYS[1], 'service:' .. ARGV[2], ARGV[3]) == 1 then redis.call('PUBLISH', ARGV[4], '@state') end
return 'OK'
