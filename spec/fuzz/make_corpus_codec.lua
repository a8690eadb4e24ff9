-- lua5.4 spec/fuzz/make_corpus_codec.lua: writes the first inputs of fuzz_codec to spec/fuzz/corpus_codec,
-- one for each feature of the format. Needs a build in build/.

package.cpath = "build/lua/?.so;" .. package.cpath
local codec = require "codec_module"
local folder = "spec/fuzz/corpus_codec/"
os.execute("mkdir -p " .. folder)

local function write(name, bytes)
  local file <close> = assert(io.open(folder .. name, "wb"))
  file:write(bytes)
end

local cycle = { 1 }
cycle.self, cycle[cycle] = cycle, { cycle }
local runs = { i1 = {}, i2 = {}, i4 = {}, i8 = {}, f = {} }
for i = 1, 6 do
  runs.i1[i], runs.i2[i], runs.i4[i], runs.i8[i], runs.f[i] = i, i * 300, i * 70000, i << 40, i / 3
end
local hash = {}
for i = 1, 20 do hash[i * 1.5] = i % 2 == 0 end
local deep = {}
do
  local at = deep
  for _ = 1, 40 do at[1] = { x = 1 } at = at[1] end
end
local loose = {}
for i = 1, 8 do loose[i] = { a = i, b = "bb", c = { a = 1, b = "bb", c = {} } } end
loose[4].d, loose[6].b, loose[8][1] = { loose[1] }, nil, "cc"
setmetatable(loose[8], { __name = "n" })
local env = setmetatable({ a = { 1 } }, { __index = _G })
local values = {
  scalars = { nil, true, false, 0, 63, 64, -1, 300, -40000, 1 << 33, 1.5, 0 / 0, "", "a", "ab", ("s"):rep(40), n = 17 },
  cycle = { cycle }, hash = { hash }, deep = { deep },
  i1 = { runs.i1 }, i2 = { runs.i2 }, i4 = { runs.i4 }, i8 = { runs.i8 }, f = { runs.f },
  records = { { { id = 1, name = "aa" }, { id = 2, name = "bb" }, { x = 1 } } },
  loose = { loose },
  strings = { { "aa", 1, "bb", 1.5, "cc", "dd", 300, "ee", "aa", 1 << 40, "ff", { "gg" } } },
  holes = { { 1, nil, 3, nil, 5, [20] = 1 } },
  metatables = { setmetatable({}, { __index = { 1 }, __name = "n" }) },
  names = { print, string.format, string, io.stdout, _G },
  environment = { load("return a, b", "=e", "t", env) },
  closures = { function() return cycle end, function() return cycle, runs end },
}
for name, list in pairs(values) do
  write(name, (codec.encode({}, table.unpack(list, 1, list.n or #list))))
end
local eight = ("d"):rep(8)
write("ahead", "P" ..
  string.pack("<s2s2s2", "\1\9\x4d\2\1\2\x51\1" .. eight, "\2\3\x4e\3aabbcc", "\1\9\x50\1" .. eight) ..
  "\0\0\3\1\xca\1\4\6\1\x40\xca\2\3\3\0\x81a\1\x53")
write("bytecode", string.dump(load "local a = x y = a return function() z = _ENV end"))
