#!lua flags=allow-oom
-- renew: the lease of an instance goes on, and all that hangs on it. Also while the server's memory is full: or all
-- would be dead at once.
--
-- KEYS   1 lease, 2 load, 3 set of leases, 4 index of registrations
-- ARGV   1 base, 2 lease hex, 3 counter, 4 TTL ms, 5 load (JSON), 6... members of the index
-- returns 1, or 0 where a registration, or its entry in the index, had gone: register again
-- @include base

local ttl, whole = ARGV[4], 1
redis.call('SET', KEYS[1], ARGV[3], 'PX', ttl)
redis.call('SET', KEYS[2], ARGV[5], 'PX', ttl)
for i = 6, #ARGV do
  if redis.call('PEXPIRE', base .. 'inst:' .. ARGV[i], ttl) == 0 then whole = 0 end
end
-- Whoever took it for dead has struck it off; while it lives, it may own requests.
redis.call('SADD', KEYS[3], ARGV[2])
for i = 6, #ARGV do
  -- Whoever found a registration gone may prune the index just behind its return.
  if redis.call('SADD', KEYS[4], ARGV[i]) == 1 then whole = 0 end
end
return whole
