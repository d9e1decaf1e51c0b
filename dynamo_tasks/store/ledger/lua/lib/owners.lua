-- Notes who owns a request, and that observers must watch it: one that was taken for dead by mistake is not watched
-- until it renews its lease, and may die before.
local function own(lease, id)
  redis.call('SADD', base .. 'owned:' .. lease, id)
  redis.call('SADD', base .. 'leases', lease)
end
