#!lua flags=allow-oom
-- revoke: everything that was registered under a lease goes at once, and the lease too unless it is kept.
-- Keeps 2 of docs/ledger.md.
--
-- KEYS   1 lease, 2 index of registrations
-- @args base, lease, keep, channel
--   lease: hex; keep: '1' to keep it (requests still run on it); channel: of the registry
-- returns number of registrations that were taken back
local gone = 0
local ending = ':' .. lease
for _, member in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if string.sub(member, -#ending) == ending then
    redis.call('DEL', base .. 'inst:' .. member)
    redis.call('SREM', KEYS[2], member)
    gone = gone + 1
  end
end
if keep ~= '1' then
  redis.call('DEL', KEYS[1], base .. 'load:' .. lease)
  -- Something was not handed over: observers shall find it.
  if redis.call('SCARD', base .. 'owned:' .. lease) == 0 then
    redis.call('SREM', base .. 'leases', lease)
    redis.call('DEL', base .. 'queues:' .. lease)
  end
end
redis.call('PUBLISH', channel, '-' .. lease)
return gone
