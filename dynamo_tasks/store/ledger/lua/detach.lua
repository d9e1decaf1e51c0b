#!lua flags=allow-oom
-- detach: a client process has no reader of this request any more.
-- Keeps 6, 9 of docs/ledger.md.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 database number, 4 reader channel, 5 '1' = it saw the end
-- returns number of readers left, -1 no record
-- @include alive, base, clock, records, terminal

local id, reader = ARGV[2], ARGV[4]
redis.call('SREM', base .. 'reads:' .. reader, id)
local r = fields(KEYS[1], 'st', 'rd', 'own', 'ep', 'bg', 'ab', 'rs')
if not r.st then return -1 end
local left, n = {}, 0
for channel in string.gmatch(r.rd or '', '%S+') do
  if channel ~= reader then
    n = n + 1
    left[n] = channel
  end
end
local readers = table.concat(left, ' ')
redis.call('HSET', KEYS[1], 'rd', readers)
if TERMINAL[r.st] then
  if n == 0 and ARGV[5] == '1' and r.bg ~= '1' then redis.call('PEXPIRE', KEYS[2], math.min(tonumber(r.rs) or 60000, RECORD_TTL)) end
  return n
end
if n == 0 and r.bg ~= '1' and r.rd and r.rd ~= '' then
  redis.call('ZADD', base .. 'timers', now_ms() + (tonumber(r.ab) or 5000), 'a:' .. id)
end
if r.own then
  redis.call('PUBLISH', alive_channel(ARGV[3], r.own), 'readers ' .. id .. ' ' .. r.ep .. ' ' .. readers)
end
return n
