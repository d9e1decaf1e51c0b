-- @include records

-- What nobody asks for once a request has ended and Celery's completion is done.
local SPENT = {
  [F.message] = true, [F.result] = true, [F.nonce] = true, [F.queue] = true, [F.suffix] = true, [F.not_before] = true,
  [F.deadline] = true, [F.expires] = true, [F.previous] = true, [F.tenant] = true, [F.weight] = true,
  [F.abandon_after] = true, [F.retention] = true, [F.idle_attempts] = true, [F.traceparent] = true,
  [F.preemptible] = true, [F.marks] = true,
}

-- What is left of a record is written anew, since a hash that once had a long field keeps the large encoding.
local function rewrite(record, r, kept)
  local left = {}
  for name, value in pairs(r) do
    if (name == kept or not SPENT[name]) and value ~= '' then
      left[#left + 1] = name
      left[#left + 1] = value
    end
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
  rewrite(record, r, lies and F.queue)
  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end
end
