-- Items of conversations. They live as long as the object that is the conversation.
-- @include numbers

-- Items by id; their order; what is going on: `open` the response that will add its items, `since` when it began,
-- `changes` how often the items have changed, `bytes` of all items.
local function parts_of(id) return base .. 'conv-items:' .. id, base .. 'conv-order:' .. id, base .. 'conv:' .. id end

-- They outlive the object by a little, so that nobody finds it without them.
local function live_like(object, id)
  local left = redis.call('PTTL', object)
  for _, key in ipairs({ parts_of(id) }) do
    if left >= 0 then redis.call('PEXPIRE', key, int(left + 60000)) else redis.call('PERSIST', key) end
  end
end

-- The response that was going on is over: nobody has to look for its end.
local function close_response(id, request)
  local _, _, state = parts_of(id)
  redis.call('HDEL', state, 'open', 'since')
  redis.call('ZREM', base .. 'conv-open', id .. ' ' .. request)
end
