-- attach: a client process begins to read a request.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 database number, 4 reader channel
-- returns {state, id on top of the log, '1' if the log is there, owner key, render} | {} no record
local id, reader = ARGV[2], ARGV[4]
local r = fields(KEYS[1], 'st', 'rd', 'own', 'ep', 'ok', 'rnd')
if not r.st then return {} end
local readers = r.rd or ''
if not string.find(' ' .. readers .. ' ', ' ' .. reader .. ' ', 1, true) then
  readers = readers == '' and reader or (readers .. ' ' .. reader)
  redis.call('HSET', KEYS[1], 'rd', readers)
end
redis.call('SADD', base .. 'clients', reader)
redis.call('SADD', base .. 'reads:' .. reader, id)
redis.call('ZREM', base .. 'timers', 'a:' .. id)
if r.own and r.st == 'RUNNING' then
  redis.call('PUBLISH', alive_channel(ARGV[3], r.own), 'readers ' .. id .. ' ' .. r.ep .. ' ' .. readers)
end
return { r.st, (top_of(KEYS[2])), tostring(redis.call('EXISTS', KEYS[2])), r.ok or '', r.rnd or '' }
