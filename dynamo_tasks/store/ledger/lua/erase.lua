#!lua flags=allow-oom
-- erase: messages of requests that were purged leave the queues in which they lie: those of their instance or
-- component.
--   One call looks at so many messages; what is left is for the next one. What comes into a list meanwhile stands
--   before the place where it goes on, or behind it: none is missed.
-- Keeps 6 of docs/ledger.md.
--
-- KEYS   1 notes of purge, 2 what is left of earlier calls
-- @args base, most_notes, most_messages
--   how many notes are followed, and how many messages of 4 KiB are looked at
-- returns number of messages, number of lists that were not searched to their end
-- @include messages, terminal, wait_queue

local WINDOW, LONGEST, SIZE = 1048576, 200, 4096
local removed, budget = 0, tonumber(most_messages)

-- Where to go on; nil at the end of the list.
local function erase_from(list, wanted, first)
  local page = 4
  while budget > 0 do
    local found, bytes, gone = redis.call('LRANGE', list, first, first + page - 1), 0, 0
    for _, message in ipairs(found) do
      bytes = bytes + #message
      if wanted[id_of(message) or ''] then gone = gone + redis.call('LREM', list, 1, message) end
    end
    if #found < page then budget, removed = budget - #found, removed + gone return nil end
    first, removed = first + #found - gone, removed + gone
    budget = budget - #found - bytes / SIZE - gone * first / 100
    page = math.max(1, math.min(LONGEST, math.floor(WINDOW * #found / bytes)))
  end
  return first
end

local jobs, of = {}, {}
for _, raw in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do jobs[#jobs + 1] = cmsgpack.unpack(raw) end
redis.call('DEL', KEYS[2])

local function want(id, list)
  if not of[list] then
    of[list] = { ids = {}, list = list, first = 0 }
    jobs[#jobs + 1] = of[list]
  end
  table.insert(of[list].ids, id)
end

for _ = 1, #jobs == 0 and tonumber(most_notes) or 0 do
  local note = redis.call('LPOP', KEYS[1])
  if not note then break end
  local id, queue = unpack(cmsgpack.unpack(note))
  local shared = shared_queue(queue)
  for _, one in ipairs(queue == shared and { queue } or { queue, shared }) do
    for _, list in ipairs(wait_queue().lists_up_to(one .. '\6\0229')) do want(id, list) end
  end
end

for _, job in ipairs(jobs) do
  local wanted = {}
  for _, id in ipairs(job.ids) do wanted[id] = true end
  job.first = erase_from(job.list, wanted, job.first)
  if job.first then redis.call('RPUSH', KEYS[2], cmsgpack.pack(job)) end
end
redis.call('PEXPIRE', KEYS[2], RECORD_TTL)
if removed > 0 then admit(nil) end
return { removed, redis.call('LLEN', KEYS[2]) }
