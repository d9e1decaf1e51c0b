-- withdraw: an instance serves some endpoints no more; its lease and the rest stay.
--
-- KEYS   1 index of registrations
-- @args base, lease, channel, ...
--   lease: hex; channel: of the registry; ...: members
-- returns number of registrations that were taken back
local gone = 0
for i = REST, #ARGV do
  gone = gone + redis.call('DEL', base .. 'inst:' .. ARGV[i])
  redis.call('SREM', KEYS[1], ARGV[i])
  redis.call('SREM', base .. 'queues:' .. lease, (string.gsub(ARGV[i], ':[^:]*$', '')))
end
redis.call('PUBLISH', channel, '-' .. lease)
return gone
