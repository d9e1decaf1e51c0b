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
local r = fields(KEYS[1], 'st', 'own', 'ep', 'en', 'q', 'qs', 'att', 'tn', 'tw')
if not r.st then return 'GONE' end
if r.st == 'QUEUED' and r.ep == ARGV[4] and r.en == ARGV[5] then return r.q == ARGV[6] and 'SHARED' or 'OK' end
if r.st ~= 'RUNNING' or r.own ~= lease or r.ep ~= ARGV[4] then return 'FENCED' end
local there = redis.call('EXISTS', ARGV[8]) == 1
local queue = there and ARGV[7] or ARGV[6]
redis.call('HSET', KEYS[1], 'st', 'QUEUED', 'en', ARGV[5], 'q', queue, 'msg', ARGV[9], 'nb', '0',
  'att', int(tonumber(r.att) - 1))
redis.call('HDEL', KEYS[1], 'own', 'non')
redis.call('SREM', base .. 'owned:' .. lease, id)
redis.call('ZADD', base .. 'queued', now_ms(), id)
redis.call('SREM', running_of(component_of(r.en)), id)
local before = r.en
r.en, r.q, r.msg = ARGV[5], queue, ARGV[9]
enter(id, r)
admit(component_of(before))
return there and 'OK' or 'SHARED'
