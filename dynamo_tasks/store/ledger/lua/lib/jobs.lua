-- @include clock, numbers, terminal

-- A job of a pipeline is over: what waits is dropped, the rest is kept for a day.
local function end_job(job, state, err)
  redis.call('HSET', job, 'state', state, 'finished', int(now_ms()), 'error', err)
  redis.call('PEXPIRE', job, RECORD_TTL)
  for task in string.gmatch(redis.call('HGET', job, 'tasks') or '', '%S+') do
    redis.call('DEL', job .. ':in:' .. task)
    redis.call('PEXPIRE', job .. ':at:' .. task, RECORD_TTL)
  end
  redis.call('PEXPIRE', job .. ':results', RECORD_TTL)
  redis.call('PEXPIRE', job .. ':dead', RECORD_TTL)
  -- The index forgets those that are gone, a few at a time.
  for _, known in ipairs(redis.call('ZRANGE', base .. 'jobs', 0, 19)) do
    if redis.call('EXISTS', base .. 'job:' .. known) == 0 then redis.call('ZREM', base .. 'jobs', known) end
  end
end
