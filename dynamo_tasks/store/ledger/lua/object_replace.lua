-- object_replace: other data for an object, if it is still at the revision that the caller has read. Safe to repeat.
--
-- KEYS   1 object
-- @args base, kind, id, revision, nonce, data, ttl, swept
--   nonce: of this change, the same one where it is repeated; ttl: ms from now, 0 = for good, '' = as it was; swept: as in `object_create`
-- returns {'OK', revision, ends}  the new one; ends: ms, 0 = never
--         {'CONFLICT', revision}  somebody else was faster
--         {'GONE'}
-- @include numbers, objects

local r = redis.call('HMGET', KEYS[1], 'revision', 'nonce', 'owner', 'ends')
if not r[1] then return { 'GONE' } end
local following = int(tonumber(revision) + 1)
if r[1] ~= revision then
  if r[1] == following and r[2] == nonce then return { 'OK', following, r[4] } end
  return { 'CONFLICT', r[1] }
end
redis.call('HSET', KEYS[1], 'revision', following, 'nonce', nonce, 'data', data)
if ttl ~= '' then
  local order, ends = index_of(kind, r[3])
  ends_in(KEYS[1], kind, id, order, ends, ttl, swept)
end
return { 'OK', following, redis.call('HGET', KEYS[1], 'ends') }
