-- forward: RUNNING -> QUEUED by the owner, for another endpoint of the namespace: the request's id and log stay, and the
--   attempt does not count. It waits in the queue of the instance that was chosen, or in the component's where that one
--   is not registered (any more): what an instance leaves behind when it goes was pushed while it was registered.
-- Keeps 1, 2 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 lease hex, 4 epoch, 5 endpoint, 6 queue key of its component, 7 queue key of the instance,
--        8 key of the instance's registration, 9 message
-- returns 'OK' in the instance's queue | 'SHARED' in the component's | 'FENCED' | 'GONE'
-- @include base, clock, components, numbers, records, wait_queue

local id, lease = ARGV[2], ARGV[3]
local r = fields(KEYS[1], F.state, F.owner, F.epoch, F.endpoint, F.queue, F.suffix, F.attempts, F.tenant, F.weight)
if not r.state then return 'GONE' end
if r.state == 'QUEUED' and r.epoch == ARGV[4] and r.endpoint == ARGV[5] then return r.queue == ARGV[6] and 'SHARED' or 'OK' end
if r.state ~= 'RUNNING' or r.owner ~= lease or r.epoch ~= ARGV[4] then return 'FENCED' end
local there = redis.call('EXISTS', ARGV[8]) == 1
local queue = there and ARGV[7] or ARGV[6]
redis.call('HSET', KEYS[1], F.state, 'QUEUED', F.endpoint, ARGV[5], F.queue, queue, F.message, ARGV[9], F.not_before,
  '0',
  F.attempts, int(tonumber(r.attempts) - 1))
redis.call('HDEL', KEYS[1], F.owner, F.nonce)
redis.call('SREM', base .. 'owned:' .. lease, id)
redis.call('ZADD', base .. 'queued', now_ms(), id)
redis.call('SREM', running_of(component_of(r.endpoint)), id)
local before = r.endpoint
r.endpoint, r.queue, r.message = ARGV[5], queue, ARGV[9]
enter(id, r)
admit(component_of(before))
return there and 'OK' or 'SHARED'
