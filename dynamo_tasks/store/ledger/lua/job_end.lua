-- job_end: RUNNING | STOPPING -> STOPPING | STOPPED | FAILED, asked for from outside of its tasks.
--
-- KEYS   1 job
-- @args base, channel, new_state, error
--   channel: of the job; error: '' = none
-- returns 'OK' | 'OVER' it has ended | 'GONE' no such job
-- @include jobs

local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'GONE' end
if state ~= 'RUNNING' and state ~= 'STOPPING' then return 'OVER' end
-- Without tasks there are only services, and nobody who would end the job behind its last record.
if new_state == 'STOPPING' and redis.call('HGET', KEYS[1], 'left') == '0' then
  end_job(KEYS[1], 'STOPPED', '')
elseif new_state == 'STOPPING' then
  redis.call('HSET', KEYS[1], 'state', 'STOPPING')
else
  end_job(KEYS[1], new_state, error)
end
redis.call('PUBLISH', channel, '@state')
return 'OK'
