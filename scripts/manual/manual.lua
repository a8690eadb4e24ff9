-- Makes the manual: what LDoc has read of the Lua and C sources, the comments of mantichora.h, and the
-- chapters beside this file become Markdown, and that HTML and man pages, by lowdown(1).
--
-- A filter of LDoc, see the target `manual` in CMakeLists.txt. MANUAL_SOURCE and MANUAL_OUT say where
-- the tree and the results are, MANUAL_VERSION which version this is, MANUAL_LOWDOWN where lowdown is.
-- LDoc chooses the Lua: anything from 5.1 to 5.4.

local source, out = os.getenv("MANUAL_SOURCE"), os.getenv("MANUAL_OUT")
local version, lowdown_path = os.getenv("MANUAL_VERSION"), os.getenv("MANUAL_LOWDOWN")

-- The pages, in the order of the contents: name, section of the man pages, what it is about.
local pages = {
  { name = "index", man = "mantichora-guide", section = 7, about = "introduction to mantichora" },
  { name = "pool", section = 7, about = "running functions in a pool of workers" },
  { name = "values", section = 7, about = "what crosses between processes" },
  { name = "faults", section = 7, about = "tasks that fail, and how to stop them" },
  { name = "events", section = 7, about = "what happens to tasks and workers" },
  { name = "machines", section = 7, about = "the same script on other machines" },
  { name = "journal", section = 7, about = "run again only what changed" },
  { name = "watch", section = 7, about = "watching a run, and what it leaves to look at" },
  { name = "fleet", section = 7, about = "machines that several scripts share" },
  { name = "trust", section = 7, about = "what a task can do to its parent" },
  { name = "progress", section = 7, about = "progress bars" },
  { name = "logging", section = 7, about = "log records and output of tasks" },
  { name = "prompt", section = 7, about = "the prompt of mantichora" },
  { name = "shell", section = 7, about = "map, filter and run at the shell" },
  { name = "notebook", section = 7, about = "mantichora in Jupyter's notebooks" },
  { name = "embedding", section = 7, about = "mantichora inside of programs" },
  { name = "performance", section = 7, about = "what things cost" },
  { name = "ports", section = 7, about = "the machines that it is tested on" },
  { name = "mantichora", section = 3, about = "Lua module: pools of workers" },
  { name = "mantichora.atpbar", section = 3, about = "Lua module: progress bars" },
  { name = "mantichora.logging", section = 3, about = "Lua module: log records" },
  { name = "mantichora.h", section = 3, about = "C API" },
}

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

local function run(command)
  local status = os.execute(command)
  if status ~= true and status ~= 0 then error("failed: " .. command, 0) end
end

-- ---------------------------------------------------------------------------------------------
-- The reference for Lua: LDoc's items to Markdown

-- Comments stand one blank behind their hyphens.
local function unindent(text) return (text:gsub("\n ", "\n"):gsub("^%s+", ""):gsub("%s+$", "")) end

-- A text on one line, for items of lists.
local function one_line(text) return (text:gsub("%s*\n%s*", " "):gsub("^%s+", ""):gsub("%s+$", "")) end

local function add(lines, ...)
  for _, text in ipairs { ... } do lines[#lines + 1] = text end
end

-- "(what[, name])", from the documented parameters; those with a dot are fields of one before.
local function arguments(item)
  local words = {}
  for _, name in ipairs(item.params or {}) do
    local modifiers = item.modifiers[item.parameter][name] or {}
    if name == "..." or not name:find(".", 1, true) then
      local comma = #words > 0 and ", " or ""
      words[#words + 1] = modifiers.opt and "[" .. comma .. name .. "]" or comma .. name
    end
  end
  return "(" .. table.concat(words) .. ")"
end

local function parameter_line(item, name)
  local modifiers = item.modifiers[item.parameter][name] or {}
  local notes = {}
  if modifiers.type then notes[#notes + 1] = modifiers.type end
  if modifiers.opt then
    notes[#notes + 1] = type(modifiers.opt) == "string" and "default `" .. modifiers.opt .. "`" or "optional"
  end
  local text = one_line(item.params.map[name] or "")
  return ("- **%s**%s%s"):format(name, notes[1] and " (" .. table.concat(notes, ", ") .. ")" or "",
    text ~= "" and ": " .. text or "")
end

local function returns(item)
  local texts = {}
  for i, text in ipairs(item.ret or {}) do
    local modifiers = item.modifiers["return"][i] or {}
    texts[i] = (modifiers.type and "(" .. modifiers.type .. ") " or "") .. one_line(text)
  end
  return texts[1] and table.concat(texts, ", ")
end

-- A heading with a name of its own to link to: "pool:returns" is #pool-returns.
local function heading(level, text, name)
  return ("%s %s {#%s}"):format(("#"):rep(level), text, (name:gsub("%W+", "-")))
end

local function describe(lines, item)
  add(lines, "", unindent(item.summary or ""), "", unindent(item.description or ""), "")
end

local function function_item(lines, item, name)
  add(lines, heading(3, "`" .. name .. arguments(item) .. "`", name))
  describe(lines, item)
  for _, parameter in ipairs(item.params) do
    add(lines, parameter_line(item, parameter))
    for _, field in ipairs(item.subparams[parameter] or {}) do add(lines, parameter_line(item, field)) end
  end
  local facts = {
    { "Returns", returns(item) }, { "Raises", item.raise }, { "Blocks", (item.tags.blocks or {})[1] },
  }
  add(lines, "")
  for i = 1, 3 do
    local what, text = facts[i][1], facts[i][2]
    if text then add(lines, ("**%s:** %s\\"):format(what, one_line(text))) end
  end
  lines[#lines] = lines[#lines]:gsub("\\$", "")
  add(lines, "")
end

local function table_item(lines, item)
  add(lines, heading(2, "The table `" .. item.name .. "`", item.name))
  describe(lines, item)
  for _, field in ipairs(item.params) do add(lines, parameter_line(item, field)) end
  add(lines, "")
end

-- The summary and the text of each type, which LDoc keeps with the module's sections.
local function class_texts(module)
  local texts = {}
  for _, section in pairs(module.sections or {}) do
    if type(section) == "table" and section.name then texts[section.name] = section end
  end
  return texts
end

local function module_page(module)
  local short = module.name:match("[^.]*$")
  local texts = class_texts(module)
  local functions, classes, tables = {}, {}, {}
  local seen = {}
  for _, item in ipairs(module.items) do
    local class, method = item.name:match("^([^:]+):(.*)$")
    if item.type == "table" then
      table_item(tables, item)
    elseif class and method then
      if not seen[class] then
        seen[class] = true
        add(classes, heading(2, "The type `" .. class .. "`", class))
        describe(classes, texts[class] or {})
      end
      function_item(classes, item, item.name)
    else
      function_item(functions, item, item.name == short and short or short .. "." .. item.name)
    end
  end
  local lines = { "# The Lua module " .. module.name }
  describe(lines, module)
  add(lines, "## Functions", "")
  for _, part in ipairs { functions, classes, tables } do add(lines, table.concat(part, "\n"), "") end
  return table.concat(lines, "\n")
end

-- ---------------------------------------------------------------------------------------------
-- The reference for C: the comments of the header, each with the declarations that follow it

-- The text of a comment without its frame.
local function comment_text(comment)
  return (comment:gsub("^/%* ?", ""):gsub("%s*%*/$", ""):gsub("\n %* ?", "\n"))
end

-- Lists stand two blanks in, in the header. Markdown wants blank lines around them.
local function part_lists(text)
  local lines, listed, blank = {}, false, true
  for line in (text .. "\n"):gmatch("(.-)\n") do
    local item = line:find("^  %- ") ~= nil
    if not blank and (item and not listed or listed and not line:find("^  ")) then add(lines, "") end
    add(lines, line)
    blank = not line:find("%S")
    listed = item or listed and line:find("^  ") ~= nil
  end
  return table.concat(lines, "\n")
end

local function declared_names(code)
  local names = {}
  for name in code:gmatch("MANTICHORA_API[^;]-[%s%*]([%w_]+)%(") do names[#names + 1] = name end
  if not names[1] then names[1] = code:match("struct (mantichora_[%w_]+) {") end
  if not names[1] then names[1] = code:match("[%s%(%*](mantichora_[%w_]+)%)%(") end
  if not names[1] then names[1] = code:match("(MANTICHORA_[%w_]+)") end
  return names
end

local function declaration(lines, comment, code)
  local text = part_lists(comment_text(comment))
  local names = declared_names(code)
  local section = comment:match("^/%* %-%- (.-) %-+ %*/$")
  if section then
    add(lines, "## " .. section:gsub("^%l", string.upper), "")
  elseif not text:find("^Internal") then
    if names[1] then add(lines, heading(3, "`" .. table.concat(names, "`, `") .. "`", names[1]), "") end
    add(lines, text, "")
  end
  code = code:gsub("MANTICHORA_API ", ""):gsub("#ifdef __cplusplus.-#endif", ""):gsub("#endif", "")
    :gsub("%b()", function(inside) return (inside:gsub("%s+", " ")) end)
  if code:find("%S") and not text:find("^Internal") then
    add(lines, "```c", (code:gsub("^%s+", ""):gsub("%s+$", "")), "```", "")
  end
end

local function header_page()
  local header = read(source .. "/runtime/mantichora.h")
  local intro, rest = header:match("^(/%*.-%*/)(.*)$")
  rest = assert(rest:match("\nstruct lua_State;\n(.*)$"), "mantichora.h does not declare struct lua_State")
  local lines = { "# The C API", "", "    #include <mantichora.h>", "", part_lists(comment_text(intro)), "" }
  local at = assert(rest:find("\n/%*"))
  while at do
    local first, last = rest:find("/%*.-%*/", at)
    local following = rest:find("\n/%*", last)
    declaration(lines, rest:sub(first, last), rest:sub(last + 1, following or #rest))
    at = following
  end
  return table.concat(lines, "\n")
end

-- ---------------------------------------------------------------------------------------------
-- Markdown to HTML and man pages

-- Call f with each line outside of fenced blocks, and put its answer there.
local function map_lines(text, f)
  local lines, fenced = {}, false
  for line in (text .. "\n"):gmatch("(.-)\n") do
    if line:find("^```") then fenced = not fenced end
    lines[#lines + 1] = fenced and line or f(line)
  end
  return table.concat(lines, "\n")
end

local function lowdown(options, markdown)
  local from, to = out .. "/page.md", out .. "/page.out"
  write(from, markdown)
  run(("%s --out-no-smarty --parse-no-metadata --parse-no-intraemph %s -o %s %s"):format(quote(lowdown_path),
    options, quote(to), quote(from)))
  local text = read(to)
  os.remove(from)
  os.remove(to)
  return text
end

local function escape(text) return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })) end

-- The contents beside a page: all pages, and the headings of this one.
local function contents(page, html)
  local lines = { "<nav>", ("<p><strong>mantichora</strong> %s</p>"):format(version), "<ul>" }
  for i, other in ipairs(pages) do
    local label = escape(other.section == 3 and other.name or other.title)
    if i > 1 and other.section ~= pages[i - 1].section then lines[#lines + 1] = "</ul>\n<ul>" end
    if other == page then
      lines[#lines + 1] = ("<li><strong>%s</strong>"):format(label)
      lines[#lines + 1] = "<ul>"
      for level, id, text in html:gmatch('<h([23]) id="([^"]+)">(.-)</h%d>') do
        local words = text:gsub("<.->", ""):gsub("%(.*", "")
        lines[#lines + 1] = ('<li class="h%s"><a href="#%s">%s</a></li>'):format(level, id, words)
      end
      lines[#lines + 1] = "</ul></li>"
    else
      lines[#lines + 1] = ('<li><a href="%s.html">%s</a></li>'):format(other.name, label)
    end
  end
  lines[#lines + 1] = "</ul>\n</nav>"
  return table.concat(lines, "\n")
end

local function write_html_page(page)
  local html = lowdown("-thtml", page.markdown)
  write(out .. "/html/" .. page.name .. ".html", ([[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s - mantichora</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
%s
<main>
%s</main>
</body>
</html>
]]):format(escape(page.title), contents(page, html), html))
end

-- Chapters become sections, whose name stands above them.
local function write_man_page(page)
  local name = page.man or (page.section == 7 and "mantichora-" .. page.name or page.name)
  local markdown = map_lines(page.markdown, function(line)
    if line:find("^# ") then return "# DESCRIPTION" end
    return (line:gsub("^#(#+) (.-) {#.*}$", "%1 %2"):gsub("^#(#+) ", "%1 "))
  end)
  markdown = ("# NAME\n\n%s - %s\n\n%s"):format(name, page.about, markdown)
  local text = lowdown(("-s -tman --nroff-nolinks -M title=%s -M section=%d -M source=%s -M volume=%s -M date=%s")
    :format(quote(name), page.section, quote("mantichora " .. version), quote("mantichora"),
      quote(os.date("!%Y-%m-%d", tonumber(os.getenv("SOURCE_DATE_EPOCH"))))), markdown)
  -- Tables want tbl(1); the constant-width font of old is not in all of today's.
  text = "'\\\" t\n" .. text:gsub("\\fC", "\\fB")
  write(("%s/man/man%d/%s.%d"):format(out, page.section, name, page.section), text)
end

local function make(modules)
  local reference = { ["mantichora.h"] = header_page() }
  for _, module in ipairs(modules) do reference[module.name] = module_page(module) end
  for _, page in ipairs(pages) do
    page.markdown = reference[page.name] or read(source .. "/scripts/manual/" .. page.name .. ".md")
    page.title = assert(page.markdown:match("^# ([^\n]+)"), page.name .. " has no title"):gsub("`", "")
  end
  for _, folder in ipairs { "html", "man/man3", "man/man7" } do
    run("mkdir -p " .. quote(out .. "/" .. folder))
  end
  for _, page in ipairs(pages) do
    write_html_page(page)
    write_man_page(page)
  end
  write(out .. "/html/style.css", read(source .. "/scripts/manual/style.css"))
end

return { make = make, annotate = require("annotations") }
