-- Why a text ended, and its usage, for those who ask when the log is gone. A long end is that of an endpoint which
-- returns a value: it has neither.
local function summary(data)
  local found = {}
  if #data > 2048 then return found end
  -- A value that an endpoint returned may hold what cmsgpack does not know: bytes.
  local readable, e = pcall(cmsgpack.unpack, data)
  if not readable then return found end
  if e.finish_reason then
    found[#found + 1] = F.finish_reason
    found[#found + 1] = e.finish_reason
  end
  local u = e.usage
  if u then
    found[#found + 1] = F.usage
    found[#found + 1] = string.format('%d %d %d', u.prompt_tokens or 0, u.completion_tokens or 0, u.cached_tokens or 0)
  end
  return found
end
