#!lua flags=allow-oom
-- register: an instance takes its lease and announces what it serves, or does neither.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 lease, 2 index of registrations
-- ARGV   1 base, 2 lease hex, 3 counter, 4 TTL ms, 5 key of the set of namespaces, 6 namespace,
--        7 registry channel, 8 number of limits, 9... <component>:<limit>, value ('' = none) of each,
--        then member, registration (JSON) of each endpoint
-- returns {'OK'}             registered; again, where the same instance had done so before
--         {'TAKEN', member}  another instance holds this registration; nothing was changed
-- @include base, wait_queue

local lease, ttl = ARGV[2], ARGV[4]
local first = 9 + 2 * tonumber(ARGV[8])

local function holder(json)
  local info = cjson.decode(json)
  return table.concat({ info.host or '', tostring(info.pid), tostring(info.started) }, ' ')
end

for i = first, #ARGV, 2 do
  local known = redis.call('GET', base .. 'inst:' .. ARGV[i])
  if known and holder(known) ~= holder(ARGV[i + 1]) then return { 'TAKEN', ARGV[i] } end
end
redis.call('SADD', ARGV[5], ARGV[6])
for i = 9, first - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', base .. 'traffic', ARGV[i])
  else redis.call('HSET', base .. 'traffic', ARGV[i], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ttl)
redis.call('SADD', base .. 'leases', lease)
for i = first, #ARGV, 2 do
  redis.call('SET', base .. 'inst:' .. ARGV[i], ARGV[i + 1], 'PX', ttl)
  redis.call('SADD', KEYS[2], ARGV[i])
  redis.call('SADD', base .. 'queues:' .. lease, (string.gsub(ARGV[i], ':[^:]*$', '')))
end
admit(nil)
redis.call('PUBLISH', ARGV[7], '+' .. lease)
return { 'OK' }
