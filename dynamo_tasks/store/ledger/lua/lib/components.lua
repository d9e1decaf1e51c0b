local function component_of(endpoint) return string.match(endpoint or '', '^[^.]*%.([^.]*)%.') or '' end

-- Ids of its RUNNING requests, and of its QUEUED ones whose time has come: moved by the transitions themselves, so that
-- they are as true as the records, and a lost process can't leave a count behind.
local function running_of(component) return base .. 'running:' .. component end

local function waiting_of(component) return base .. 'waiting:' .. component end
