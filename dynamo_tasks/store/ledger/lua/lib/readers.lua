-- @include alive, records

-- Adds a reader's channel to a record; the running owner is told. Returns all channels, separated by spaces.
local function add_reader(record, id, db, reader)
  local r = fields(record, F.state, F.readers, F.owner, F.epoch)
  local readers = r.readers or ''
  if not string.find(' ' .. readers .. ' ', ' ' .. reader .. ' ', 1, true) then
    readers = readers == '' and reader or (readers .. ' ' .. reader)
    redis.call('HSET', record, F.readers, readers)
  end
  redis.call('SADD', base .. 'clients', reader)
  redis.call('SADD', base .. 'reads:' .. reader, id)
  redis.call('ZREM', base .. 'timers', 'a:' .. id)
  if r.owner and r.state == 'RUNNING' then
    redis.call('PUBLISH', alive_channel(db, r.owner), 'readers ' .. id .. ' ' .. r.epoch .. ' ' .. readers)
  end
  return readers
end
