-- keys_write: an API key is made, changed or forgotten, by those who know its revision.
--
-- KEYS   1 the hash of keys: 'k:<id>' the key as JSON, 'd:<digest>' the id that a secret stands for, 'o:<beginning of
--        the owner's name>' the id behind a stream token, 'version' how often anything was changed
-- @args id, owner, revision, data, ...
--   revision: that was read, 0 = it is new; data: JSON, '' = forget it; ...: digests of the secrets that stand for it
-- returns 'OK' | 'CHANGED' it has another revision | 'TAKEN' another key has such a secret

local before = redis.call('HGET', KEYS[1], 'k:' .. id)
local known = before and cjson.decode(before)
if (known and known.revision or 0) ~= tonumber(revision) then return 'CHANGED' end
local whose = redis.call('HGET', KEYS[1], 'o:' .. owner)
if whose and whose ~= id then return 'TAKEN' end
for i = REST, #ARGV do
  local other = redis.call('HGET', KEYS[1], 'd:' .. ARGV[i])
  if other and other ~= id then return 'TAKEN' end
end
for _, one in ipairs(known and known.secrets or {}) do redis.call('HDEL', KEYS[1], 'd:' .. one.digest) end
redis.call('HINCRBY', KEYS[1], 'version', 1)
if data == '' then
  redis.call('HDEL', KEYS[1], 'k:' .. id, 'o:' .. owner)
  return 'OK'
end
redis.call('HSET', KEYS[1], 'k:' .. id, data, 'o:' .. owner, id)
for i = REST, #ARGV do redis.call('HSET', KEYS[1], 'd:' .. ARGV[i], id) end
return 'OK'
