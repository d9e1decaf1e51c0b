-- job_commit: a task of an operator has handled some input. In one step: its output is queued for those that follow,
-- its input is gone, its checkpoint moves on. So a record is handled once, whatever dies when.
--
-- KEYS   1 record of the request that runs the task, 2 job, 3 checkpoint of the task, 4 its input
-- @args base, lease, epoch, channel, task, number, position, most_waiting, most_dead, records_in, records_out,
--       skipped, dead, done, consumed, ...
--   lease (hex), epoch: of the claim; channel: of the job; number: of this commit; position: of a source;
--   most_waiting: records that may wait for a task; done: '1' = the task has ended; consumed: records of the input that
--   is gone; ...: five lists, each after its length: ids of the input, (task, records, chunk) of the output, all tasks
--   that follow, results, dead letters
-- returns 'OK' | 'FENCED' another attempt runs the task | 'OVER' the job has ended
--         'FULL' too much waits for one that follows: nothing was done | 'DEAD' done, but too many dead letters
-- @include clock, jobs, numbers, records

local r = fields(KEYS[1], F.state, F.owner, F.epoch)
if r.state ~= 'RUNNING' or r.owner ~= lease or r.epoch ~= epoch then return 'FENCED' end
local state = redis.call('HGET', KEYS[2], 'state')
if state ~= 'RUNNING' and state ~= 'STOPPING' then return 'OVER' end
-- Asked again, since the reply was lost.
if tonumber(redis.call('HGET', KEYS[3], 'number')) >= tonumber(number) then return 'OK' end

local at = REST
local function list(width)
  local first = at + 1
  at = first + tonumber(ARGV[at]) * width
  return first, at - 1
end
local in_first, in_last = list(1)
local out_first, out_last = list(3)
local next_first, next_last = list(1)
local res_first, res_last = list(1)
local dead_first, dead_last = list(1)

for i = out_first, out_last, 3 do
  if tonumber(redis.call('HGET', KEYS[2] .. ':at:' .. ARGV[i], 'waiting')) >= tonumber(most_waiting) then return 'FULL' end
end
for i = out_first, out_last, 3 do
  redis.call('XADD', KEYS[2] .. ':in:' .. ARGV[i], '*', 'c', ARGV[i + 2])
  redis.call('HINCRBY', KEYS[2] .. ':at:' .. ARGV[i], 'waiting', ARGV[i + 1])
  redis.call('PUBLISH', channel, ARGV[i])
end
for i = in_first, in_last do redis.call('XDEL', KEYS[4], ARGV[i]) end
if in_last >= in_first then
  redis.call('HINCRBY', KEYS[3], 'waiting', '-' .. consumed)
  redis.call('PUBLISH', channel, '@room')
end
for i = res_first, res_last do redis.call('RPUSH', KEYS[2] .. ':results', ARGV[i]) end
if res_last >= res_first then redis.call('PUBLISH', channel, '@results') end
for i = dead_first, dead_last do redis.call('RPUSH', KEYS[2] .. ':dead', ARGV[i]) end
redis.call('HSET', KEYS[3], 'number', number, 'position', position, 'time', int(now_ms()))
for name, n in pairs({ ['in'] = records_in, out = records_out, skipped = skipped, dead = dead }) do
  if n ~= '0' then redis.call('HINCRBY', KEYS[3], name, n) end
end
if done == '1' then
  redis.call('HSET', KEYS[3], 'done', '1')
  for i = next_first, next_last do
    redis.call('HINCRBY', KEYS[2] .. ':at:' .. ARGV[i], 'open', -1)
    redis.call('PUBLISH', channel, ARGV[i])
  end
  if redis.call('HINCRBY', KEYS[2], 'left', -1) == 0 then
    end_job(KEYS[2], state == 'STOPPING' and 'STOPPED' or 'SUCCEEDED', '')
    redis.call('PUBLISH', channel, '@state')
  end
end
if redis.call('LLEN', KEYS[2] .. ':dead') > tonumber(most_dead) then return 'DEAD' end
return 'OK'
