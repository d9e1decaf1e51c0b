-- Id and stream of a request, by the key of its record: so that neither travels.
local function named_by(record)
  local id = string.sub(record, #base + 5)
  return id, base .. 'log:' .. id
end
