-- Runs a Lua script on a terminal of a given size and keeps every byte that it writes, for the
-- screen model.

local screen = require "spec.support.screen"
local shell = require "spec.support.shell"

local pty = {}

--- Run this Lua code. `options`: `columns` (80) and `rows` (24); `environment`, such as "A=1 B=2";
-- `timeout`; `redirect`, such as ">file", for the script alone; `stdio`: lines of shell to run first.
-- @return table with `bytes`, `status` and `screen`, the model that has been fed with them
function pty.run(code, options)
  options = options or {}
  local columns, rows = options.columns or 80, options.rows or 24
  local folder = shell.folder()
  shell.write(folder .. "/script.lua", code)
  shell.write(folder .. "/run", ("stty cols %d rows %d\nexport TERM=xterm-256color %s\n%s\nexec %s %s/script.lua %s\n")
    :format(columns, rows, options.environment or "", options.stdio or "", shell.interpreter, folder,
    options.redirect or ""))
  local got = shell.run(("script -qec 'exec sh %s/run' /dev/null"):format(folder), { timeout = options.timeout or 60 })
  local result = { bytes = got.out, status = got.status, screen = screen.new(columns, rows):feed(got.out) }
  shell.remove(folder)
  return result
end

return pty
