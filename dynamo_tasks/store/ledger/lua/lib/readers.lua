-- @include alive, base, records

-- Adds a reader's channel to a record; the running owner is told. Returns all channels, separated by spaces.
local function add_reader(record, id, db, reader)
  local r = fields(record, 'st', 'rd', 'own', 'ep')
  local readers = r.rd or ''
  if not string.find(' ' .. readers .. ' ', ' ' .. reader .. ' ', 1, true) then
    readers = readers == '' and reader or (readers .. ' ' .. reader)
    redis.call('HSET', record, 'rd', readers)
  end
  redis.call('SADD', base .. 'clients', reader)
  redis.call('SADD', base .. 'reads:' .. reader, id)
  redis.call('ZREM', base .. 'timers', 'a:' .. id)
  if r.own and r.st == 'RUNNING' then
    redis.call('PUBLISH', alive_channel(db, r.own), 'readers ' .. id .. ' ' .. r.ep .. ' ' .. readers)
  end
  return readers
end
