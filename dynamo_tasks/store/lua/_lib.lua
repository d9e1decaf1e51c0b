-- Common part, put in front of every script.
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

-- The line: what waits for a component. Its invariants are in docs/overload.md.
--
-- A queue is kombu's list, from which workers pop, and behind it a line for each component, ordered by fairness: a zset
-- of ids by tag. At most WINDOW messages are in a list before others stand in line, so a list stays short, and who is
-- next is decided as late as possible. Recovery pushes to the front of the list itself.
local WINDOW = 16
local FRONT = -4503599627370496
local SEP = '\6\22'
local STEPS = { '0', '3', '6', '9' }

local function component_of(endpoint) return string.match(endpoint or '', '^[^.]*%.([^.]*)%.') or '' end

-- Ids of its RUNNING requests, and of its QUEUED ones whose time has come: moved by the transitions themselves, so that
-- they are as true as the records, and a lost process can't leave a count behind.
local function running_of(component) return base .. 'running:' .. component end

local function waiting_of(component) return base .. 'waiting:' .. component end

local function line_of(component, list) return base .. 'line:' .. component .. ':' .. list end

local function tags_of(component, list) return base .. 'tags:' .. component .. ':' .. list end

local function split_list(list)
  local queue, step = string.match(list, '^(.*)' .. SEP .. '(%d+)$')
  return queue or list, step or '0'
end

local function list_of(queue, step) return step == '0' and queue or (queue .. SEP .. step) end

-- As long as the lines of a queue: kombu and Flower add the lengths of a queue's lists, and this is one of them.
local function shadow_of(list) return (split_list(list)) .. SEP .. '10' end

local function real(n) return string.format('%.17g', n) end

-- A limit of the component as a whole: 'concurrency' or 'max_queue'; nil where it has none.
local function limit_of(component, name) return tonumber(redis.call('HGET', base .. 'traffic', component .. ':' .. name) or nil) end

-- How many more messages may be in the component's list so that whoever takes one may also claim it.
local function room_of(component, list)
  local limit = limit_of(component, 'concurrency')
  if not limit then return math.huge end
  local queue, room = split_list(list), limit - redis.call('SCARD', running_of(component))
  for _, step in ipairs(STEPS) do room = room - redis.call('LLEN', list_of(queue, step)) end
  return room
end

-- Start-time fair queueing: a tenant's requests are 1/weight apart, and one that comes anew starts at the present.
local function tag_for(component, list, tenant, weight)
  local known = redis.call('HMGET', tags_of(component, list), 'now', 't:' .. tenant)
  return math.max(tonumber(known[1] or nil) or 0, tonumber(known[2] or nil) or 0) + 1 / (tonumber(weight or nil) or 1)
end

local function stand(component, list, id, tag)
  if redis.call('ZADD', line_of(component, list), 'NX', real(tag), id) == 0 then return end
  redis.call('LPUSH', shadow_of(list), '')
  redis.call('SADD', base .. 'lines', component .. ':' .. list)
end

local function clear_line(component, list)
  if redis.call('EXISTS', line_of(component, list)) == 1 then return end
  redis.call('DEL', tags_of(component, list))
  redis.call('SREM', base .. 'lines', component .. ':' .. list)
end

-- Somebody leaves the line without having been its first: the next one of its tenant takes the place.
local function leave_line(id, r)
  if redis.call('EXISTS', base .. 'lines') == 0 then return end
  local component, list = component_of(r.en), (r.q or '') .. (r.qs or '')
  if redis.call('ZREM', line_of(component, list), id) == 0 then return end
  redis.call('LPOP', shadow_of(list))
  if redis.call('HEXISTS', tags_of(component, list), 't:' .. (r.tn or '')) == 1 then
    redis.call('HINCRBYFLOAT', tags_of(component, list), 't:' .. (r.tn or ''), real(-1 / (tonumber(r.tw) or 1)))
  end
  clear_line(component, list)
end

-- A request comes to its queue: into the list, or into the line where others wait. r: en, q, qs, msg, tn, tw.
local function enter(id, r)
  local component, list = component_of(r.en), r.q .. (r.qs or '')
  redis.call('SADD', waiting_of(component), id)
  if redis.call('EXISTS', line_of(component, list)) == 0 and redis.call('LLEN', list) < WINDOW
    and room_of(component, list) > 0 then
    redis.call('LPUSH', list, r.msg)
    return
  end
  local tenant = r.tn or ''
  local tag = tag_for(component, list, tenant, r.tw)
  redis.call('HSET', tags_of(component, list), 't:' .. tenant, real(tag))
  stand(component, list, id, tag)
end

-- The first of a line steps into the list. Returns whether a message was pushed; nil where nobody stands there.
local function step_up(component, list)
  local first = redis.call('ZPOPMIN', line_of(component, list))
  if #first == 0 then return nil end
  redis.call('LPOP', shadow_of(list))
  local id, tag = first[1], tonumber(first[2])
  local r = fields(base .. 'req:' .. id, 'st', 'msg', 'tn')
  if tag > 0 then
    local tags, tenant = tags_of(component, list), 't:' .. (r.tn or '')
    redis.call('HSET', tags, 'now', real(tag))
    if (tonumber(redis.call('HGET', tags, tenant) or nil) or 0) <= tag then redis.call('HDEL', tags, tenant) end
  end
  if r.st ~= 'QUEUED' or not r.msg then return false end
  redis.call('LPUSH', list, r.msg)
  return true
end

-- The lists behind which somebody stands in line for a component (all of them for nil), higher priorities first.
local function lines_of(component)
  local found = {}
  for _, member in ipairs(redis.call('SMEMBERS', base .. 'lines')) do
    local whose, list = string.match(member, '^([^:]*):(.*)$')
    if not component or whose == component then
      local _, step = split_list(list)
      found[#found + 1] = { whose, list, tonumber(step) }
    end
  end
  table.sort(found, function(a, b)
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[2] < b[2]
  end)
  return found
end

-- Room was made: the first in line step up. Called by whatever takes from a list or ends a run.
local function admit(component)
  if redis.call('EXISTS', base .. 'lines') == 0 then return end
  for _, line in ipairs(lines_of(component)) do
    local whose, list = line[1], line[2]
    local room = math.min(WINDOW - redis.call('LLEN', list), room_of(whose, list))
    while room > 0 do
      local pushed = step_up(whose, list)
      if pushed == nil then break end
      if pushed then room = room - 1 end
    end
    clear_line(whose, list)
  end
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
  local r = fields(record, 'st', 'own', 'ep', 'rd', 'bg', 'rt', 'ig', 'en', 'q', 'qs', 'tn', 'tw')
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
  local component = component_of(r.en)
  redis.call('SREM', running_of(component), id)
  if r.st == 'QUEUED' then
    redis.call('SREM', waiting_of(component), id)
    leave_line(id, r)
  end
  admit(component)
  return event_id
end
