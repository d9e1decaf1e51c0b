-- Common part, put in front of every script.
-- Scripts that end or free something, or keep an instance alive, have the flag allow-oom: they run while the server's
-- memory is full. All others are refused then before they have written anything.
-- ARGV[1] is always the namespace's key base ("dt:<ns>:"), KEYS[1] the record, KEYS[2] the log.

local base = ARGV[1]
local TERMINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true, EXPIRED = true }
local RECORD_TTL = 24 * 3600 * 1000

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function int(n) return string.format('%.0f', n) end

local function fields(key, ...)
  local names = { ... }
  local values = redis.call('HMGET', key, unpack(names))
  local out = {}
  for i, name in ipairs(names) do out[name] = values[i] or nil end
  return out
end

-- Top of a stream: id as text, epoch as number; '0-0', 0 where there is none.
local function top_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #last == 0 then return '0-0', 0 end
  local id = last[1][1]
  return id, tonumber(string.match(id, '^(%d+)-'))
end

local function bigendian(n, bytes)
  local out = {}
  for i = bytes, 1, -1 do
    out[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(out)
end

local function mp_str(s)
  local n = #s
  if n < 32 then return string.char(0xa0 + n) .. s end
  if n < 256 then return string.char(0xd9, n) .. s end
  return string.char(0xda) .. bigendian(n, 2) .. s
end

local function mp_bin(s)
  local n = #s
  if n < 256 then return string.char(0xc4, n) .. s end
  if n < 65536 then return string.char(0xc5) .. bigendian(n, 2) .. s end
  return string.char(0xc6) .. bigendian(n, 4) .. s
end

-- Push one event to every reading client (channels separated by spaces).
local function push(readers, id, event_id, kind, data)
  if not readers or readers == '' then return end
  local message = '\145\148' .. mp_str(id) .. mp_str(event_id) .. mp_str(kind) .. mp_bin(data)
  for channel in string.gmatch(readers, '%S+') do redis.call('PUBLISH', channel, message) end
end

-- An instance's own queue is "<queue>.<endpoint>-<lease>": the component's queue, and the lease where it is such a one.
local function shared_queue(queue)
  local shared, lease = string.match(queue, '^(.*|[^.|]*)%.[^.|]*%-(%x+)$')
  return shared or queue, lease
end

local function alive_channel(db, lease) return base .. 'alive:' .. db .. ':' .. lease end

-- The payload of an end event with the id that it follows: one field more in its msgpack map.
local function naming(data, previous)
  return string.char(string.byte(data, 1) + 1) .. string.sub(data, 2) .. mp_str('previous') .. mp_str(previous)
end

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

-- A request that no owner will end (any more): its last event is written here.
-- Creates the stream where there is none. The epoch that it takes fences the owner.
-- Celery's tail is left to the owner, or to whoever receives the message, unless no result is kept.
local function end_unowned(record, log, id, db, data, state, outcome_error)
  local r = fields(record, 'st', 'own', 'ep', 'rd', 'bg', 'rt', 'ig')
  local previous, top = top_of(log)
  data = naming(data, previous)
  local epoch = math.max(now_ms(), (tonumber(r.ep) or 0) + 1, top + 1)
  if r.st == 'RUNNING' then epoch = math.max((tonumber(r.ep) or 0) + 1, top + 1) end
  local event_id = int(epoch) .. '-0'
  redis.call('XADD', log, event_id, 'e', data)
  redis.call('HSET', record, 'st', state, 'ep', int(epoch), 'end', event_id, 'err', outcome_error,
    'fin', int(now_ms()), 'set', r.ig == '1' and '1' or '0')
  redis.call('HDEL', record, 'msg', 'own', 'non')
  redis.call('PEXPIRE', record, RECORD_TTL)
  redis.call('PEXPIRE', log, tonumber(r.rt) or 3600000)
  redis.call('ZREM', base .. 'queued', id)
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
  push(r.rd, id, event_id, 'e', data)
  if r.own then
    redis.call('SREM', base .. 'owned:' .. r.own, id)
    redis.call('PUBLISH', alive_channel(db, r.own), 'abort ' .. id .. ' ' .. (r.ep or '0') .. ' ' .. state)
  end
  return event_id
end
