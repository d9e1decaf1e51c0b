-- trace: notes the span of an attempt, for the next attempt to link to. Called only while spans are recorded.
--
-- KEYS   1 record, 2 stream
-- @args base, lease, epoch, traceparent
--   lease: hex
-- returns the traceparent of the attempt before, '' where there is none or the record is not this attempt's any more
-- @include records

local r = fields(KEYS[1], F.owner, F.epoch, F.traceparent)
if r.owner ~= lease or r.epoch ~= epoch then return '' end
redis.call('HSET', KEYS[1], F.traceparent, traceparent)
return r.traceparent or ''
