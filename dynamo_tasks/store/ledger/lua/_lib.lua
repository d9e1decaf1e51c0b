-- Common part: what a script uses of it is put in front of it. Definitions are separated by empty lines, and use only what
-- stands above them.
-- Scripts that end or free something, or keep an instance alive, have the flag allow-oom: they run while the server's
-- memory is full. All others are refused then before they have written anything.
-- ARGV[1] is always the namespace's key base ("dt:<ns>:"), KEYS[1] the record, KEYS[2] the log.

local base = ARGV[1]
local TERMINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true, EXPIRED = true }
local RECORD_TTL = 24 * 3600 * 1000

-- Time stands still inside of a script, so it is asked once.
local asked_at
local function now_ms()
  if not asked_at then
    local t = redis.call('TIME')
    asked_at = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  end
  return asked_at
end

local function int(n) return string.format('%.0f', n) end

local function fields(key, ...)
  local names = { ... }
  local values = redis.call('HMGET', key, unpack(names))
  local out = {}
  for i, name in ipairs(names) do out[name] = values[i] or nil end
  return out
end

local function whole(key)
  local all, out = redis.call('HGETALL', key), {}
  for i = 1, #all, 2 do out[all[i]] = all[i + 1] end
  return out
end

-- Top of a stream: id as text, epoch as number; '0-0', 0 where there is none.
local function top_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #last == 0 then return '0-0', 0 end
  local id = last[1][1]
  return id, tonumber(string.match(id, '^(%d+)-'))
end

-- Id of the request of a message. What stands in front of it may be large: a pattern would be tried at each byte of it.
local function id_of(message)
  local at = string.find(message, '"id"', 1, true)
  return at and string.match(message, '^"id"%s*:%s*"([^"]+)"', at)
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

-- Push one event to every reading client (channels separated by spaces), and to nobody else whom a record may name.
local function push(readers, id, event_id, kind, data)
  if not readers or readers == '' then return end
  local message = '\145\148' .. mp_str(id) .. mp_str(event_id) .. mp_str(kind) .. mp_bin(data)
  for channel in string.gmatch(readers, '%S+') do
    if string.find(channel, 'dt:@client:', 1, true) then redis.call('PUBLISH', channel, message) end
  end
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

local function real(n) return string.format('%.17g', n) end

-- What waits for a component and what it runs. The invariants are in docs/overload.md; the rules of the lines, which most
-- scripts do not need most of the time, in _line.lua: a table of functions that is made when it is asked for.
local WINDOW = 16
local line_rules
local rules
local function the_line()
  rules = rules or line_rules()
  return rules
end

local function component_of(endpoint) return string.match(endpoint or '', '^[^.]*%.([^.]*)%.') or '' end

-- Ids of its RUNNING requests, and of its QUEUED ones whose time has come: moved by the transitions themselves, so that
-- they are as true as the records, and a lost process can't leave a count behind.
local function running_of(component) return base .. 'running:' .. component end

local function waiting_of(component) return base .. 'waiting:' .. component end

-- Whether nobody stands in any line of the namespace, and no component has a limit: then there is nothing to look at.
local calm
local function all_calm()
  if calm == nil then calm = redis.call('EXISTS', base .. 'lines', base .. 'traffic') == 0 end
  return calm
end

local somebody
local function anybody_in_line()
  if somebody == nil then somebody = not all_calm() and redis.call('EXISTS', base .. 'lines') == 1 end
  return somebody
end

-- A limit of the component as a whole: 'concurrency' or 'max_queue'; nil where it has none.
local function limit_of(component, name)
  if all_calm() then return nil end
  return tonumber(redis.call('HGET', base .. 'traffic', component .. ':' .. name) or nil)
end

-- A request comes to its queue: into the list, or into the line where others wait. r: en, q, qs, msg, tn, tw.
local function enter(id, r)
  local component, list = component_of(r.en), r.q .. (r.qs or '')
  redis.call('SADD', waiting_of(component), id)
  if anybody_in_line() or limit_of(component, 'concurrency') or redis.call('LLEN', list) >= WINDOW then
    return the_line().enter(id, r, component, list)
  end
  redis.call('LPUSH', list, r.msg)
end

-- It does not wait any more, and was not the first in its line.
local function leave_line(id, r)
  if anybody_in_line() then the_line().leave(id, r) end
end

-- Room was made: the first in line step up (of all components for nil). Called by whatever takes from a list or ends a run.
local function admit(component)
  if anybody_in_line() then the_line().admit(component) end
end

-- Notes who owns a request, and that observers must watch it: one that was taken for dead by mistake is not watched
-- until it renews its lease, and may die before.
local function own(lease, id)
  redis.call('SADD', base .. 'owned:' .. lease, id)
  redis.call('SADD', base .. 'leases', lease)
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

-- A job of a pipeline is over: what waits is dropped, the rest is kept for a day.
local function end_job(job, state, err)
  redis.call('HSET', job, 'st', state, 'fin', int(now_ms()), 'err', err)
  redis.call('PEXPIRE', job, RECORD_TTL)
  for task in string.gmatch(redis.call('HGET', job, 'tasks') or '', '%S+') do
    redis.call('DEL', job .. ':in:' .. task)
    redis.call('PEXPIRE', job .. ':at:' .. task, RECORD_TTL)
  end
  redis.call('PEXPIRE', job .. ':results', RECORD_TTL)
  redis.call('PEXPIRE', job .. ':dead', RECORD_TTL)
  -- The index forgets those that are gone, a few at a time.
  for _, known in ipairs(redis.call('ZRANGE', base .. 'jobs', 0, 19)) do
    if redis.call('EXISTS', base .. 'job:' .. known) == 0 then redis.call('ZREM', base .. 'jobs', known) end
  end
end

-- Why a text ended, and its usage, for those who ask when the log is gone. A long end is that of an endpoint which
-- returns a value: it has neither.
local function summary(data)
  local found = {}
  if #data > 2048 then return found end
  -- A value that an endpoint returned may hold what cmsgpack does not know: bytes.
  local readable, e = pcall(cmsgpack.unpack, data)
  if not readable then return found end
  if e.finish_reason then
    found[#found + 1] = 'fr'
    found[#found + 1] = e.finish_reason
  end
  local u = e.usage
  if u then
    found[#found + 1] = 'us'
    found[#found + 1] = string.format('%.0f %.0f %.0f', u.prompt_tokens or 0, u.completion_tokens or 0, u.cached_tokens or 0)
  end
  return found
end

-- What nobody asks for once a request has ended and Celery's tail is done.
local SPENT = {
  msg = true, out = true, non = true, q = true, qs = true, nb = true, dl = true, ex = true, prev = true, tn = true,
  tw = true, ab = true, rt = true, bar = true, tp = true,
}

-- What is left of a record is written anew, since a hash that once had a long field keeps the large encoding.
local function rewrite(record, r, kept)
  local left = {}
  for name, value in pairs(r) do
    if (name == kept or not SPENT[name]) and value ~= '' then
      left[#left + 1] = name
      left[#left + 1] = value
    end
  end
  redis.call('DEL', record)
  redis.call('HSET', record, unpack(left))
end

-- A request is over. One in the dead list stays whole, for somebody may want to run it again. Where its message lies in a
-- queue yet, it is known which: purge looks for it there.
local function settled(record, lies)
  local r = whole(record)
  if r.dmsg then return redis.call('HDEL', record, 'msg', 'out', 'non') end
  local ttl = redis.call('PTTL', record)
  rewrite(record, r, lies and 'q')
  if ttl > 0 then redis.call('PEXPIRE', record, ttl) end
end

-- A request that no owner will end (any more): its last event is written here.
-- Creates the stream where there is none. The epoch that it takes fences the owner.
-- Celery's tail, unless no result is kept, is left to the owner (if it dies, the message is sent again), or to whoever
-- receives the message (it is looked for as long as that has not happened).
local function end_unowned(record, log, id, db, data, state, outcome_error)
  local r = fields(record, 'st', 'own', 'ep', 'rd', 'bg', 'rt', 'ig', 'en', 'q', 'qs', 'tn', 'tw')
  local previous, top = top_of(log)
  data = naming(data, previous)
  local epoch = math.max(now_ms(), (tonumber(r.ep) or 0) + 1, top + 1)
  if r.st == 'RUNNING' then epoch = math.max((tonumber(r.ep) or 0) + 1, top + 1) end
  local event_id = int(epoch) .. '-0'
  redis.call('XADD', log, event_id, 'e', data)
  redis.call('HSET', record, 'st', state, 'ep', int(epoch), 'end', event_id, 'err', outcome_error,
    'fin', int(now_ms()), 'set', r.ig == '1' and '1' or '0', unpack(summary(data)))
  redis.call('HDEL', record, 'non')
  redis.call('PEXPIRE', record, RECORD_TTL)
  if r.ig == '1' then
    redis.call('HDEL', record, 'own')
    redis.call('ZREM', base .. 'queued', id)
    if r.own then redis.call('SREM', base .. 'owned:' .. r.own, id) end
    settled(record, r.st == 'QUEUED')
  end
  redis.call('PEXPIRE', log, math.min(tonumber(r.rt) or 3600000, RECORD_TTL))
  redis.call('ZREM', base .. 'timers', 'm:' .. id, 'a:' .. id, 'd:' .. id)
  push(r.rd, id, event_id, 'e', data)
  if r.own then
    redis.call('PUBLISH', alive_channel(db, r.own), 'abort ' .. id .. ' ' .. (r.ep or '0') .. ' ' .. state)
  end
  local component = component_of(r.en)
  redis.call('SREM', running_of(component), id)
  if r.st == 'QUEUED' then
    redis.call('SREM', waiting_of(component), id)
    -- Where Celery's tail is owed, the message still has to arrive, in its turn.
    if r.ig == '1' then leave_line(id, r) end
  end
  admit(component)
  return event_id
end
