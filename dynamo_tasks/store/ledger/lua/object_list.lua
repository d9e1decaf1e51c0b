-- object_list: a page of an owner's objects by their creation.
--
-- @args base, kind, owner, order, after, limit, most_bytes
--   order: 'asc' or 'desc'; after: id of the last one that is known ('' = from the start); most_bytes: of data, after
--   which the page ends
-- returns {'OK', more, ...}  more: 1 = others follow; ...: id, owner, revision, order, ends, data of each
--         {'UNKNOWN'}        nobody knows a place after that id
-- @include objects

local by_creation = index_of(kind, owner)
local backwards = order == 'desc'
local from = backwards and '+inf' or '-inf'
if after ~= '' then
  local place = redis.call('ZSCORE', by_creation, after)
  if not place then return { 'UNKNOWN' } end
  from = '(' .. place
end

local function some(offset)
  local bounds = backwards and { from, '-inf', 'BYSCORE', 'REV' } or { from, '+inf', 'BYSCORE' }
  bounds[#bounds + 1] = 'LIMIT'
  bounds[#bounds + 1] = offset
  bounds[#bounds + 1] = 100
  return redis.call('ZRANGE', by_creation, unpack(bounds))
end

local found, number, bytes, offset = { 'OK', 0 }, 0, 0, 0
local ids = some(0)
while #ids > 0 do
  for _, id in ipairs(ids) do
    local r = redis.call('HMGET', base .. 'object:' .. kind .. ':' .. id, 'owner', 'revision', 'order', 'ends', 'data')
    if r[1] == owner and r[5] then
      if number >= tonumber(limit) or (number > 0 and bytes + #r[5] > tonumber(most_bytes)) then
        found[2] = 1
        return found
      end
      number, bytes = number + 1, bytes + #r[5]
      found[#found + 1] = { id, r[1], r[2], r[3], r[4], r[5] }
    end
  end
  offset = offset + #ids
  ids = #ids == 100 and some(offset) or {}
end
return found
