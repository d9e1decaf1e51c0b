-- Time stands still inside of a script, so it is asked once.
local asked_at
local function now_ms()
  if not asked_at then
    local t = redis.call('TIME')
    asked_at = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  end
  return asked_at
end
