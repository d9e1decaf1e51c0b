-- cancel: QUEUED | RUNNING -> CANCELLED | FAILED by anybody. The running owner is fenced and told.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 id, 3 database number, 4 payload of the end event, 5 state, 6 error JSON,
--        7 guard: '' = always, 'unread' = only while nobody reads and it is not a background request,
--          'due' = only once its deadline has passed, 'queued' = only while QUEUED
-- returns 'OK' | 'ENDED' it has ended before | 'GONE' | 'GUARDED'
local r = fields(KEYS[1], 'st', 'rd', 'bg', 'dl')
if not r.st then return 'GONE' end
if TERMINAL[r.st] then return 'ENDED' end
if ARGV[7] == 'unread' and ((r.rd and r.rd ~= '') or r.bg == '1') then return 'GUARDED' end
if ARGV[7] == 'due' and ((tonumber(r.dl) or 0) == 0 or now_ms() < tonumber(r.dl)) then return 'GUARDED' end
if ARGV[7] == 'queued' and r.st ~= 'QUEUED' then return 'GUARDED' end
end_unowned(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 'OK'
