#!lua flags=allow-oom
-- renew: the lease of an instance goes on, and all that hangs on it. Also while the server's memory is full: or all
-- would be dead at once.
--
-- KEYS   1 lease, 2 load, 3 set of leases, 4 index of registrations
-- @args base, lease, counter, ttl, load, ...
--   lease: hex; ttl: ms; load: JSON; ...: members of the index
-- returns 1, or 0 where a registration, or its entry in the index, had gone: register again
local whole = 1
redis.call('SET', KEYS[1], counter, 'PX', ttl)
redis.call('SET', KEYS[2], load, 'PX', ttl)
for i = REST, #ARGV do
  if redis.call('PEXPIRE', base .. 'inst:' .. ARGV[i], ttl) == 0 then whole = 0 end
end
-- Whoever took it for dead has struck it off; while it lives, it may own requests.
redis.call('SADD', KEYS[3], lease)
for i = REST, #ARGV do
  -- Whoever found a registration gone may prune the index just behind its return.
  if redis.call('SADD', KEYS[4], ARGV[i]) == 1 then whole = 0 end
end
return whole
