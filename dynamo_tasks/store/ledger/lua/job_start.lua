-- job_start: a job of a pipeline begins: nothing -> RUNNING. Harmless when repeated.
--
-- KEYS   1 job, 2 index of jobs
-- ARGV   1 base, 2 id, 3 key of the set of namespaces, 4 namespace, 5 name of its environment, 6 plan (JSON),
--        7... task, number of tasks that send it records
-- returns 'OK' | 'KNOWN' it was started before
-- @include clock, numbers

if redis.call('EXISTS', KEYS[1]) == 1 then return 'KNOWN' end
local tasks = {}
for i = 7, #ARGV, 2 do
  tasks[#tasks + 1] = ARGV[i]
  redis.call('HSET', KEYS[1] .. ':at:' .. ARGV[i], 'number', 0, 'open', ARGV[i + 1], 'waiting', 0)
end
local now = int(now_ms())
redis.call('HSET', KEYS[1], 'state', 'RUNNING', 'name', ARGV[5], 'plan', ARGV[6], 'started', now, 'left', #tasks,
  'tasks', table.concat(tasks, ' '))
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('SADD', ARGV[3], ARGV[4])
return 'OK'
