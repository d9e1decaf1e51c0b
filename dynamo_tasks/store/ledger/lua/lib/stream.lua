-- Top of a stream: id as text, epoch as number; '0-0', 0 where there is none.
local function top_of(log)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #last == 0 then return '0-0', 0 end
  local id = last[1][1]
  return id, tonumber(string.match(id, '^(%d+)-'))
end
