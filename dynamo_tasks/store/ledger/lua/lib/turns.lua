-- turns: components that share a device, one of which may be wanted or awake at a time.
--
-- scaled(key)              the hash of scales: component → its fields, bounds and fleets decoded
-- rivals(all, component)   names of those that share its device
-- unit_of(all, component)  what a `serve` leads to decide about it

local function scaled(key)
  local all, rows = {}, redis.call('HGETALL', key)
  for i = 1, #rows, 2 do
    local component, field = string.match(rows[i], '^([^@:][^:]*):(.+)$')
    if component then
      local one = all[component] or { fleets = {} }
      all[component] = one
      local serve = string.match(field, '^fleet:(.+)$')
      if serve or field == 'bounds' then
        local read, value = pcall(cjson.decode, rows[i + 1])
        if read and type(value) == 'table' then
          if serve then one.fleets[serve] = value else one.bounds = value end
        end
      else
        one[field] = rows[i + 1]
      end
    end
  end
  return all
end

local function share_of(one)
  return one and one.bounds and one.bounds.share or ''
end

local function rivals(all, component)
  local share, found = share_of(all[component]), {}
  if share == '' then return found end
  for name, one in pairs(all) do
    if name ~= component and share_of(one) == share then found[#found + 1] = name end
  end
  return found
end

local function unit_of(all, component)
  local share = share_of(all[component])
  return share == '' and component or '=' .. share
end
