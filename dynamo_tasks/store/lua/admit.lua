-- admit: the first in every line step up where there is room. The scripts that make room do it themselves; this is for
--   the case that a worker died between its pop and its claim, or that a list was emptied by others.
--
-- ARGV   1 base
-- returns 1
admit(nil)
return 1
