-- What an API keeps beside a record, as long as the record: nobody reads it with the record.
local function document_of(id) return base .. 'doc:' .. id end

-- The record has its TTL now, so has the document: that of the stream, where it is to be kept for less.
local function document_ends(id, r, ttl)
  if r.document then redis.call('PEXPIRE', document_of(id), math.min(tonumber(r.retention) or ttl, ttl)) end
end
