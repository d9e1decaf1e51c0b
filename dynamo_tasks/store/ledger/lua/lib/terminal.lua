-- States that are an end, and how many milliseconds a record is kept after it.

local TERMINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true, EXPIRED = true }
local RECORD_TTL = 24 * 3600 * 1000
