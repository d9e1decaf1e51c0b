-- The account of a request: its reservation is taken where its record is written (reservation.lua), and it is charged,
-- and the reservation given back, where its end is (charge.lua): by the same scripts, so both happen as often as these.
--
-- Of a record: F.account, '<tokens per minute> <tokens reserved> <cost reserved> <prompt tokens> <price in> <price out>
-- <price cached> <days> <model>'; without it a request counts for nobody. Costs are billionths.
-- Keys: tokens:<owner> when its tokens of a minute are whole again, ms; held:<owner> what is reserved: tokens, cost, n;
-- usage:<day>:<owner> model -> '<requests> <errors> <prompt> <answer> <cached> <reasoning> <ttft ms> <how many had one>
-- <cost>'; usage:<day> the owners of a day. Days since 1970, UTC.
-- @include numbers

local DAY = 86400000

local function usage_key(owner, now) return base .. 'usage:' .. int(math.floor(now / DAY)) .. ':' .. owner end
