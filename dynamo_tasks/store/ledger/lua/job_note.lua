-- job_note: keep the statistics of a service with its job. The first ones say that the service has begun.
--
-- KEYS   1 job
-- @args base, service, statistics, channel
--   statistics: JSON; channel: of the job
-- returns 'OK' | 'GONE' no such job
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('HSET', KEYS[1], 'service:' .. service, statistics) == 1 then redis.call('PUBLISH', channel, '@state') end
return 'OK'
