-- job_end: RUNNING | STOPPING -> STOPPING | STOPPED | FAILED, asked for from outside of its tasks.
--
-- KEYS   1 job
-- ARGV   1 base, 2 id, 3 channel of the job, 4 the new state, 5 error ('' = none)
-- returns 'OK' | 'OVER' it has ended | 'GONE' no such job
-- @include jobs

local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'GONE' end
if state ~= 'RUNNING' and state ~= 'STOPPING' then return 'OVER' end
-- Without tasks there are only services, and nobody who would end the job behind its last record.
if ARGV[4] == 'STOPPING' and redis.call('HGET', KEYS[1], 'left') == '0' then
  end_job(KEYS[1], 'STOPPED', '')
elseif ARGV[4] == 'STOPPING' then
  redis.call('HSET', KEYS[1], 'state', 'STOPPING')
else
  end_job(KEYS[1], ARGV[4], ARGV[5])
end
redis.call('PUBLISH', ARGV[3], '@state')
return 'OK'
