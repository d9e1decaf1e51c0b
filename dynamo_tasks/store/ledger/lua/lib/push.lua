-- By hand: cmsgpack writes every string as text, and the data of an event are bytes.
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
