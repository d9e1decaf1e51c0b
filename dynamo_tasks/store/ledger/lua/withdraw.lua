-- withdraw: an instance serves some endpoints no more; its lease and the rest stay.
--
-- KEYS   1 index of registrations
-- ARGV   1 base, 2 lease hex, 3 registry channel, 4... member
-- returns number of registrations that were taken back
-- @include base

local gone = 0
for i = 4, #ARGV do
  gone = gone + redis.call('DEL', base .. 'inst:' .. ARGV[i])
  redis.call('SREM', KEYS[1], ARGV[i])
  redis.call('SREM', base .. 'queues:' .. ARGV[2], (string.gsub(ARGV[i], ':[^:]*$', '')))
end
redis.call('PUBLISH', ARGV[3], '-' .. ARGV[2])
return gone
