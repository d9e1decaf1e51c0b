-- keep: what an API has made of a stream that has ended is kept beside the record, so that the stream may go earlier.
-- Keeps 7 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, made, retention
--   retention: ms from now for which the stream is kept yet, at most
-- returns 1 kept, 0 it has not ended, or has no document
-- @include documents, records, terminal

local r = fields(KEYS[1], F.state, F.document)
local left = redis.call('PTTL', KEYS[1])
if not TERMINAL[r.state] or not r.document or left <= 0 then return 0 end
-- Its time is that of the document, which may be over; one that Redis has lost begins anew.
local document, given = document_of(id), redis.call('PTTL', document_of(id))
if given == -2 and redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('HSET', document, 'made', made)
if given < 0 then redis.call('PEXPIRE', document, left) end
-- A reader that leaves later must not prolong it.
redis.call('HSET', KEYS[1], F.read_retention, retention)
if redis.call('PTTL', KEYS[2]) > tonumber(retention) then redis.call('PEXPIRE', KEYS[2], retention) end
return 1
