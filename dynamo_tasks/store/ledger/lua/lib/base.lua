-- What the names of a namespace's keys begin with, "dt:<ns>:"; always the first argument.
local base = ARGV[1]
