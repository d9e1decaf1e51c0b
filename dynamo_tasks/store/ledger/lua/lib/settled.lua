-- @include records

-- What nobody asks for once a request has ended and Celery's tail is done.
local SPENT = {
  msg = true, out = true, non = true, q = true, qs = true, nb = true, dl = true, ex = true, prev = true, tn = true,
  tw = true, ab = true, rt = true, bar = true, tp = true,
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

-- A request is over. One in the dead list stays whole, for somebody may want to run it again. Where its message lies in a
-- queue yet, it is known which: purge looks for it there.
local function settled(record, lies)
  local r = whole(record)
  if r.dmsg then return redis.call('HDEL', record, 'msg', 'out', 'non') end
  local ttl = redis.call('PTTL', record)
  rewrite(record, r, lies and 'q')
  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end
end
