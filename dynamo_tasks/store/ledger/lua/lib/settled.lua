-- @include records

-- Without what nobody asks for once a request has ended and Celery's completion is done, a record is written anew, since
-- a hash that once had a long field keeps the large encoding. `r` is of no use afterwards.
local function rewrite(record, r, keeps_queue)
  if not keeps_queue then r.queue = nil end
  r.message, r.result, r.nonce, r.suffix, r.not_before, r.deadline, r.expires, r.previous = nil
  r.tenant, r.weight, r.abandon_after, r.retention, r.idle_attempts, r.traceparent, r.preemptible, r.marks = nil
  local left, n = {}, 0
  for name, value in pairs(r) do
    if value ~= '' then left[n + 1], left[n + 2], n = name, value, n + 2 end
  end
  redis.call('DEL', record)
  redis.call('HSET', record, unpack(left))
end

-- A request is over. One in the dead list stays whole, for somebody may want to run it again. Where its message lies
-- in a queue yet, it is known which: purge looks for it there.
local function settled(record, lies)
  local r = whole(record)
  if r.dead_message then return redis.call('HDEL', record, F.message, F.result, F.nonce) end
  local ttl = redis.call('PTTL', record)
  rewrite(record, r, lies)
  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end
end
