-- Counts the words of all text files below some folders, one task for each file.
--
--     mantichora scripts/examples/08_word_count.lua [--plain | --check] [FOLDER ...]
--
-- A word is a run of letters A to Z, in any case. A file with a zero byte near its beginning is no
-- text, and is left out. --plain counts in this process alone; --check counts both ways and compares.

local mantichora = require "mantichora"
local atpbar = require "mantichora.atpbar"
local logging = require "mantichora.logging"

local DEFAULT_FOLDERS = { "/usr/share/common-licenses", "/usr/share/doc" }
local BLOCK = 64 * 1024 -- bytes read at a time
local LARGE = 8 * BLOCK -- files from this size on have a bar of their own
local SHOWN = 20        -- words in the table

local log = logging.get("word_count")

-- The words of one file: a table of counts by word, nil if it is no text.
local function count_file(path)
  local opened, problem = io.open(path, "rb")
  if not opened then error(problem, 0) end
  local file <close> = opened
  if (file:read(BLOCK) or ""):find("\0", 1, true) then return nil end
  local size = file:seek("end")
  file:seek("set")
  local bar <close> = size >= LARGE and atpbar.bar { name = path, total = size } or nil
  local counts = {}
  while true do
    local block, rest = file:read(BLOCK, "L") -- no word goes on behind the end of its line
    if not block and rest then error(path .. ": " .. rest, 0) end
    if not block then break end
    block = block .. (rest or "")
    for found in block:gmatch("%a+") do
      local word = found:lower()
      counts[word] = (counts[word] or 0) + 1
    end
    if bar then bar:add(#block) end
  end
  return counts
end

-- The task: a file that cannot be read is worth a line in the log, not a failure.
local function count_words(path)
  local fine, counts = pcall(count_file, path)
  if fine then return counts end
  log:warning("cannot read %s", counts)
  return nil
end

-- All files below the folders, and the links that lead nowhere.
local function list_files(folders)
  local quoted = {}
  for i, folder in ipairs(folders) do
    quoted[i] = "'" .. folder:gsub("'", "'\\''") .. "'"
  end
  local command = "find -H " .. table.concat(quoted, " ") .. " \\( -type f -o -xtype l \\) -print0"
  local pipe <close> = assert(io.popen(command))
  local files = {}
  for path in pipe:read("a"):gmatch("([^\0]+)\0") do
    files[#files + 1] = path
  end
  table.sort(files)
  return files
end

-- The counts of each file in turn, as they come.
local function one_by_one(files)
  local i = 0
  return function()
    i = i + 1
    if files[i] then return i, count_words(files[i]) end
  end
end

local function sum_up(number_of_files, results)
  local total = { texts = 0, words = 0, counts = {} }
  local counts = total.counts
  for _, of_file in atpbar.wrap(number_of_files, "files", results) do
    if of_file then
      total.texts = total.texts + 1
      for word, count in pairs(of_file) do
        counts[word] = (counts[word] or 0) + count
        total.words = total.words + count
      end
    end
  end
  return total
end

local function count_plainly(files)
  return sum_up(#files, one_by_one(files))
end

local function count_in_pool(files)
  local mcore <close> = mantichora { name = "word count" }
  for _, path in ipairs(files) do
    mcore:run(count_words, path)
  end
  return sum_up(#files, mcore:as_completed())
end

local function print_table(number_of_files, total)
  local words = {}
  for word in pairs(total.counts) do
    words[#words + 1] = word
  end
  table.sort(words, function(a, b)
    local m, n = total.counts[a], total.counts[b]
    if m ~= n then return m > n end
    return a < b
  end)
  for i = 1, math.min(SHOWN, #words) do
    print(("%10d  %s"):format(total.counts[words[i]], words[i]))
  end
  print(("%10d  words, %d of them different, in %d texts among %d files"):format(
    total.words, #words, total.texts, number_of_files))
end

local function same(a, b)
  if a.words ~= b.words or a.texts ~= b.texts then return false end
  for word, count in pairs(a.counts) do
    if b.counts[word] ~= count then return false end
  end
  return true
end

local folders = { ... }
local mode
if folders[1] == "--plain" or folders[1] == "--check" then mode = table.remove(folders, 1) end
if #folders == 0 then folders = DEFAULT_FOLDERS end

local files = list_files(folders)
local count = mode == "--plain" and count_plainly or count_in_pool
local total = count(files)
atpbar.flush()
print_table(#files, total)

if mode == "--check" then
  logging.set_level("CRITICAL") -- what cannot be read was said
  atpbar.disable()
  io.stderr:write("counting once more, plainly in one process\n")
  local agrees = same(total, count_plainly(files))
  print(agrees and "the plain count of one process is the same" or "the plain count is different!")
  os.exit(agrees, true)
end
