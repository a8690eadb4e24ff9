---@meta mantichora.logging

-- Annotations for LuaLS, made of the comments in the sources (cmake --build build --target annotations).
-- luacheck: ignore

---@type mantichora.logging
local logging
return logging
