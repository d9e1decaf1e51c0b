-- Numbers as text: whole ones, and such with a fraction.

local function int(n) return string.format('%.0f', n) end

local function real(n) return string.format('%.17g', n) end
