-- Numbers as text: whole ones, and such with a fraction.

-- Zero has no sign: '-0' is no number for Redis.
local function int(n)
  local text = string.format('%.0f', n)
  return text == '-0' and '0' or text
end

local function real(n) return string.format('%.17g', n) end
