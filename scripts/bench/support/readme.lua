-- The rows with a label, for the README: a table and the data of a picture.

local report = require "support.report"

local readme = {}

local MORE_IS_BETTER = { ["k/s"] = true, ["M/s"] = true, ["times"] = true }

-- How many times better than theirs our figure is.
local function times_better(row)
  local median = row.ratio.median
  return MORE_IS_BETTER[row.unit] and median or 1 / median
end

-- One entry for each label, in order: `label`, `ours`, and the rows by their sides.
local function entries(rows)
  local list, known = {}, {}
  for _, row in ipairs(rows) do
    if row.label and row.ratio then
      local entry = known[row.label]
      if not entry then
        entry = { label = row.label, work = row.work, ours = report.figure(row.ours, row.unit) }
        known[row.label] = entry
        list[#list + 1] = entry
      end
      entry[row.side] = row
    end
  end
  return list
end

local function cell(row)
  if not row then return "" end
  return ("%s (%s): **%s x**"):format(report.figure(row.theirs, row.unit), row.against,
    report.digits(times_better(row)))
end

--- The table as lines of Markdown.
function readme.table(rows)
  local lines = { "| work | mantichora | a limit of the machine | Python |", "| --- | --- | --- | --- |" }
  for _, entry in ipairs(entries(rows)) do
    lines[#lines + 1] = ("| %s | %s | %s | %s |"):format(entry.work, entry.ours, cell(entry.limit),
      cell(entry.Python))
  end
  return lines
end

--- The data of the picture: a line for each label, with how many times better we are than the limit and
-- than Python, or ?.
function readme.data(rows)
  local lines = {}
  for _, entry in ipairs(entries(rows)) do
    local function times(side) return entry[side] and ("%.3f"):format(times_better(entry[side])) or "?" end
    lines[#lines + 1] = ("%s\t%s\t%s"):format(entry.label, times "limit", times "Python")
  end
  return lines
end

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read("a")
end

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
end

--- Put the table into the README between its marks, and draw speed.svg beside the benchmarks.
function readme.save(rows, machine, folder)
  write(folder .. "/speed.tsv", table.concat(readme.data(rows), "\n") .. "\n")
  assert(os.execute(("gnuplot -c '%s/picture.gp' '%s/speed.tsv' '%s/speed.svg'"):format(folder, folder, folder)))
  local path = folder .. "/../../README.md"
  local before, after = read(path):match("^(.*<!%-%- speed %-%->\n).*(\n<!%-%- /speed %-%->.*)$")
  assert(before, "README.md has no marks for the table")
  local lines = readme.table(rows)
  lines[#lines + 1] = "\nMedians; how many times better ours are, in bold. On: " .. machine:gsub("; load.*", ".")
  write(path, before .. table.concat(lines, "\n") .. after)
end

return readme
