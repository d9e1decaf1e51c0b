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
redis.call('HSET', document_of(id), 'made', made)
document_ends(id, r, left)
-- A reader that leaves later must not prolong it.
redis.call('HSET', KEYS[1], F.read_retention, retention)
if redis.call('PTTL', KEYS[2]) > tonumber(retention) then redis.call('PEXPIRE', KEYS[2], retention) end
return 1
