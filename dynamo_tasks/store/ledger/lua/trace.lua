-- trace: notes the span of an attempt, for the next attempt to link to. Called only while spans are recorded.
--
-- KEYS   1 record, 2 log
-- ARGV   1 base, 2 lease hex, 3 epoch, 4 traceparent
-- returns the traceparent of the attempt before, '' where there is none or the record is not this attempt's any more
-- @include records

local r = fields(KEYS[1], F.owner, F.epoch, F.traceparent)
if r.owner ~= ARGV[2] or r.epoch ~= ARGV[3] then return '' end
redis.call('HSET', KEYS[1], F.traceparent, ARGV[4])
return r.traceparent or ''
