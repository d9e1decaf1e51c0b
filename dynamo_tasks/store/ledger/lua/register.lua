#!lua flags=allow-oom
-- register: an instance takes its lease and announces what it serves, or does neither.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 lease, 2 index of registrations
-- @args base, lease, counter, ttl, namespaces, namespace, channel, limits, ...
--   lease: hex; ttl: ms; namespaces: key of their set; channel: of the registry; limits: their number;
--   ...: <component>:<limit>, value ('' = none) of each limit, then member, registration (JSON) of each endpoint
-- returns {'OK'}             registered; again, where the same instance had done so before
--         {'TAKEN', member}  another instance holds this registration; nothing was changed
-- @include wait_queue

local first = REST + 2 * tonumber(limits)

local function holder(json)
  local info = cjson.decode(json)
  return table.concat({ info.host or '', tostring(info.pid), tostring(info.started) }, ' ')
end

for i = first, #ARGV, 2 do
  local known = redis.call('GET', base .. 'inst:' .. ARGV[i])
  if known and holder(known) ~= holder(ARGV[i + 1]) then return { 'TAKEN', ARGV[i] } end
end
redis.call('SADD', namespaces, namespace)
for i = REST, first - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', base .. 'traffic', ARGV[i])
  else redis.call('HSET', base .. 'traffic', ARGV[i], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1], counter, 'PX', ttl)
redis.call('SADD', base .. 'leases', lease)
for i = first, #ARGV, 2 do
  redis.call('SET', base .. 'inst:' .. ARGV[i], ARGV[i + 1], 'PX', ttl)
  redis.call('SADD', KEYS[2], ARGV[i])
  redis.call('SADD', base .. 'queues:' .. lease, (string.gsub(ARGV[i], ':[^:]*$', '')))
end
admit(nil)
redis.call('PUBLISH', channel, '+' .. lease)
return { 'OK' }
