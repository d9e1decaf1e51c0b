#!lua flags=allow-oom
-- detach: a client process has no reader of this request any more.
-- Keeps 6, 9 of docs/ledger.md.
--
-- KEYS   1 record
-- @args base, db, reader, saw_end
--   reader: its channel; saw_end: '1' = it saw the end
-- returns number of readers left, -1 no record
-- @include alive, clock, records, requests, terminal

local id, log = named_by(KEYS[1])
redis.call('SREM', base .. 'reads:' .. reader, id)
local r = fields(KEYS[1], F.state, F.readers, F.owner, F.epoch, F.background, F.abandon_after, F.read_retention)
if not r.state then return -1 end
local left, n = {}, 0
for channel in string.gmatch(r.readers or '', '%S+') do
  if channel ~= reader then
    n = n + 1
    left[n] = channel
  end
end
local readers = table.concat(left, ' ')
redis.call('HSET', KEYS[1], F.readers, readers)
if TERMINAL[r.state] then
  if n == 0 and saw_end == '1' and r.background ~= '1' then
    -- Never for longer than it is there anyway: its retention may be shorter, and what an API keeps of it cuts it.
    local most, remains = math.min(tonumber(r.read_retention) or 60000, RECORD_TTL), redis.call('PTTL', log)
    if remains == -1 or remains > most then redis.call('PEXPIRE', log, most) end
  end
  return n
end
if n == 0 and r.background ~= '1' and r.readers and r.readers ~= '' then
  redis.call('ZADD', base .. 'timers', now_ms() + (tonumber(r.abandon_after) or 5000), 'a:' .. id)
end
if r.owner then
  redis.call('PUBLISH', alive_channel(db, r.owner), 'readers ' .. id .. ' ' .. r.epoch .. ' ' .. readers)
end
return n
