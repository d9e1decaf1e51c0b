-- Reads some fields of a record, or all.

local function fields(key, ...)
  local names = { ... }
  local values = redis.call('HMGET', key, unpack(names))
  local out = {}
  for i, name in ipairs(names) do out[name] = values[i] or nil end
  return out
end

local function whole(key)
  local all, out = redis.call('HGETALL', key), {}
  for i = 1, #all, 2 do out[all[i]] = all[i + 1] end
  return out
end
