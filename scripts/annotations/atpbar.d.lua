---@meta mantichora.atpbar

-- Annotations for LuaLS, made of the comments in the sources (cmake --build build --target annotations).
-- luacheck: ignore

---@type mantichora.atpbar
local atpbar
return atpbar
