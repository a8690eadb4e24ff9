-- All benchmarks, one table.
--
--     lua5.4 scripts/bench/all.lua [--quick] [--rounds N] [--save] [NAME ...]
--
-- Each row: what we need or do, what a peer or a limit of the machine does in turns with us, and the
-- ratio of the two; the medians of the rounds, and the quartiles of the ratio. Peers: the pools of
-- Python's library. Limits: bare uses of the system in C (limits/). NAMEs choose benchmarks;
-- `--save` puts the main figures into the README and draws its picture, scripts/bench/speed.svg.
-- `sh scripts/setup bench` installs what the peers need; what is missing is said. The codec has its own:
-- codec.lua. On a machine that is shared, root gives the benchmarks their cores before:
--     echo -15 >/proc/self/autogroup

package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local bench = require "support.bench"
local readme = require "support.readme"
local report = require "support.report"

local NAMES = {
  "closures", "map", "latency", "floats", "strings", "queued", "cycle", "atpbar", "waiting", "order", "scaling",
  "sharing", "scale", "memory", "trace", "journal",
}

local folder = arg[0]:match("^(.*)/[^/]*$") or "."
local options = bench.options(arg)
local names = options[1] and options or NAMES
local all = { missing = {} }

local known = {}
for _, name in ipairs(NAMES) do known[name] = true end
for _, name in ipairs(names) do
  if not known[name] then
    io.stderr:write(("there is no benchmark %s; there are: %s\n"):format(name, table.concat(NAMES, ", ")))
    os.exit(1)
  end
end

local machine = report.machine()
print(machine .. "\n")
for i, name in ipairs(names) do
  io.stderr:write(("%d/%d %s\n"):format(i, #names, name))
  local rows = bench.run(dofile(("%s/%s.lua"):format(folder, name)), options)
  table.move(rows, 1, #rows, #all + 1, all)
  table.move(rows.missing, 1, #rows.missing, #all.missing + 1, all.missing)
end
report.print(all)
if options.save then readme.save(all, machine, folder) end
