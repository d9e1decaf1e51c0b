#!lua flags=allow-oom
-- erase: messages of requests that were purged leave the queues in which they lie: those of their instance or component.
-- Keeps 6 of docs/ledger.md.
--
-- KEYS   1 notes of purge
-- ARGV   1 base, 2 how many notes are followed
-- returns number of messages
local PAGE = 100
local removed = 0

local function erase_from(list, id)
  local first, found = 0, nil
  repeat
    found = redis.call('LRANGE', list, first, first + PAGE - 1)
    first = first + #found
    for _, message in ipairs(found) do
      if string.match(message, '"id"%s*:%s*"([^"]+)"') == id then
        local gone = redis.call('LREM', list, 0, message)
        first, removed = first - gone, removed + gone
      end
    end
  until #found < PAGE
end

for _ = 1, tonumber(ARGV[2]) do
  local note = redis.call('LPOP', KEYS[1])
  if not note then break end
  local id, queue = unpack(cmsgpack.unpack(note))
  local shared = shared_queue(queue)
  for _, one in ipairs(queue == shared and { queue } or { queue, shared }) do
    for _, list in ipairs(the_line().lists_up_to(one .. '\6\0229')) do erase_from(list, id) end
  end
end
if removed > 0 then admit(nil) end
return removed
