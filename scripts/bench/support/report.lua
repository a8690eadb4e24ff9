-- Rows to a table in Markdown; and what the machine is.

local programs = require "support.programs"

local report = {}

-- By how much a figure in seconds, bytes or pieces is multiplied to be shown in a unit.
local SCALES = {
  ["s"] = 1, ["ms"] = 1e3, ["us"] = 1e6, ["ns"] = 1e9, ["k/s"] = 1e-3, ["M/s"] = 1e-6, ["B"] = 1,
  ["MiB"] = 2 ^ -20, ["%"] = 100, ["times"] = 1, ["fold"] = 1,
}

--- A number with three digits that count.
function report.digits(value)
  if value ~= value or value >= 100 then return ("%.0f"):format(value) end
  return ("%.3g"):format(value)
end

--- A summary's median in its unit.
function report.figure(summary, unit)
  return summary and report.digits(summary.median * SCALES[unit]) .. " " .. unit or "?"
end

local function ratio(summary)
  if not summary then return "?" end
  return ("%s (%s to %s)"):format(report.digits(summary.median), report.digits(summary.low),
    report.digits(summary.high))
end

local function target(row)
  local wanted = row.target
  if not wanted then return "", "" end
  local text = wanted.of == "ours" and report.digits(wanted[2] * SCALES[row.unit]) .. " " .. row.unit
    or report.digits(wanted[2])
  local verdict = row.met == nil and "?" or row.met and "met" or "**missed**"
  return ("%s %s"):format(wanted[1] == ">=" and "at least" or "at most", text), verdict
end

local HEAD = { "work", "ours", "against", "theirs", "ratio (quartiles)", "target", "" }

local function cells(row)
  local wanted, verdict = target(row)
  return { row.work, report.figure(row.ours, row.unit), row.against, report.figure(row.theirs, row.unit),
    ratio(row.ratio), wanted, verdict }
end

--- The rows as a table whose columns stand below each other; what is missing after it.
function report.print(rows)
  local lines, widths = { HEAD }, {}
  for _, row in ipairs(rows) do lines[#lines + 1] = cells(row) end
  for column = 1, #HEAD do
    widths[column] = 0
    for _, line in ipairs(lines) do widths[column] = math.max(widths[column], #line[column]) end
  end
  for i, line in ipairs(lines) do
    local padded = {}
    for column, width in ipairs(widths) do padded[column] = line[column] .. (" "):rep(width - #line[column]) end
    print("| " .. table.concat(padded, " | ") .. " |")
    if i == 1 then print((("| " .. table.concat(padded, " | ") .. " |"):gsub("[^|]", "-"))) end
  end
  local targets, met = 0, 0
  for _, row in ipairs(rows) do
    if row.target then targets, met = targets + 1, met + (row.met and 1 or 0) end
  end
  print(("\n%d targets, %d met"):format(targets, met))
  for _, text in ipairs(rows.missing or {}) do print("not measured here: " .. text) end
end

local function ask(command)
  local pipe <close> = assert(io.popen(command .. " 2>/dev/null"))
  return pipe:read("l") or "?"
end

--- What was measured where: one line.
function report.machine()
  return ("%s, %s cores; Linux %s, huge pages %s; %s, %s, cc %s; mantichora %s; load average %s"):format(
    ask "sed -n 's/^model name.*: //p' /proc/cpuinfo", ask "nproc", ask "uname -r",
    ask "sed 's/.*\\[\\(.*\\)\\].*/\\1/' /sys/kernel/mm/transparent_hugepage/enabled",
    ask "lua5.4 -v":match("^Lua [%d.]+") or "?", ask(programs.python() .. " -V"), ask "cc -dumpfullversion",
    ask(("git -C %s/../.. describe --always --dirty"):format(arg[0]:match("^(.*)/[^/]*$") or ".")),
    ask "cut -d' ' -f1-3 /proc/loadavg")
end

return report
