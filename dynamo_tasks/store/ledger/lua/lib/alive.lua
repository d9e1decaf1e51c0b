local function alive_channel(db, lease) return base .. 'alive:' .. db .. ':' .. lease end
