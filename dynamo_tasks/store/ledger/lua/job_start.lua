-- job_start: a job of a pipeline begins: nothing -> RUNNING. Harmless when repeated.
--
-- KEYS   1 job, 2 index of jobs
-- @args base, id, namespaces, namespace, name, plan, ...
--   namespaces: key of their set; name: of its environment; plan: JSON; ...: task, number of tasks that send it records
-- returns 'OK' | 'KNOWN' it was started before
-- @include clock, numbers

if redis.call('EXISTS', KEYS[1]) == 1 then return 'KNOWN' end
local tasks = {}
for i = REST, #ARGV, 2 do
  tasks[#tasks + 1] = ARGV[i]
  redis.call('HSET', KEYS[1] .. ':at:' .. ARGV[i], 'number', 0, 'open', ARGV[i + 1], 'waiting', 0)
end
local now = int(now_ms())
redis.call('HSET', KEYS[1], 'state', 'RUNNING', 'name', name, 'plan', plan, 'started', now, 'left', #tasks,
  'tasks', table.concat(tasks, ' '))
redis.call('ZADD', KEYS[2], now, id)
redis.call('SADD', namespaces, namespace)
return 'OK'
