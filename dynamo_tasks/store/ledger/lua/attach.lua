-- attach: a client process begins to read a request, or reads it again after a reconnect.
-- Keeps 6, 9 of docs/ledger.md.
--
-- KEYS   1 record, 2 stream
-- @args base, id, db, reader, only_owner, owner_key, after_epoch, after_seq
--   reader: its channel; only_owner: '1' = only for the holder of owner_key; it wants to read after that event
-- returns {state, id on top of the log, '1' if the log is there, owner key, render, '1' noted as a reader | '0' not:
--          another owner, a log past its retention, a wish beyond the top or not in the log, '0' the latter} | {} no
--          record
-- @include readers, records, stream, terminal

local r = fields(KEYS[1], F.state, F.owner_key, F.render)
if not r.state then return {} end
local top, top_epoch = top_of(KEYS[2])
local top_seq = tonumber(string.match(top, '-(%d+)$'))
local there = redis.call('EXISTS', KEYS[2])
local epoch, seq = tonumber(after_epoch), tonumber(after_seq)
local beyond = epoch > top_epoch or (epoch == top_epoch and seq > top_seq)
local stranger = only_owner == '1' and r.owner_key and r.owner_key ~= '' and r.owner_key ~= owner_key
local wish = after_epoch .. '-' .. after_seq
local known = beyond or there == 0 or wish == '0-0' or #redis.call('XRANGE', KEYS[2], wish, wish) == 1
local noted = known and not (stranger or beyond or (there == 0 and TERMINAL[r.state]))
if noted then add_reader(KEYS[1], id, db, reader) end
return { r.state, top, tostring(there), r.owner_key or '', r.render or '', noted and '1' or '0', known and '1' or '0' }
