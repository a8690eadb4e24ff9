-- What `cmake --install` puts under a prefix, the programs that are built against it, and the packages.

local shell = require "spec.support.shell"

local build = os.getenv("MANTICHORA_BUILD") or "build"
local folder, prefix

-- A program that runs the Lua code of its first argument.
local CONSUMER = [[
#include <mantichora.h>
%s
#include <stdio.h>

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  int status;
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_pop(L, 1);
  status = argc == 2 ? luaL_dostring(L, argv[1]) : LUA_ERRRUN;
  if (status != LUA_OK)
    fprintf(stderr, "%%s\n", lua_tostring(L, -1));
  lua_close(L);
  return status;
}
]]

local CMAKE = [[
cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES %s)
find_package(mantichora %s REQUIRED)
add_executable(shared %s)
target_link_libraries(shared PRIVATE mantichora::mantichora)
add_executable(static %s)
target_link_libraries(static PRIVATE mantichora::static)
]]

-- Uses the pool and both parts, and prints the version.
local SCRIPT = [[
  local mantichora = require "mantichora"
  local logging = require "mantichora.logging"
  local atpbar = require "mantichora.atpbar"
  logging.basic_config { stream = io.stdout, format = "%(message)s" }
  local mcore <close> = mantichora { nworkers = 2 }
  mcore:run(function() for _ in atpbar(3, "bar") do end return mantichora._VERSION end)
  logging.error(mcore:returns()[1])
]]

-- Run a command line that must succeed; its output.
local function must(command, ...)
  local line = command:format(...)
  local got = shell.run(line, { timeout = 240 })
  assert.are.equal(0, got.status, line .. "\n" .. got.out .. got.err)
  return got.out
end

local function version()
  local line = shell.quote [[s/^project(mantichora VERSION \([0-9.]*\).*/\1/p]]
  return must("sed -n %s CMakeLists.txt", line):match("%S+")
end

-- A program, or a piece of a command line, that runs the Lua code given behind it does so.
local function works(program)
  assert.are.equal("mantichora " .. version() .. "\n", must("%s", program .. " " .. shell.quote(SCRIPT)))
end

-- Names of the libraries that a program or library asks for.
local function needed(path)
  local names = {}
  for name in must("readelf -d %s", path):gmatch("NEEDED[^%[]*%[([^%]]*)%]") do names[#names + 1] = name end
  assert.truthy(#names > 0)
  return names
end

-- The beginning of a command line that unshares so much from the rest of the system, where that is
-- allowed. Root has no need of `-r`, and cannot have it in a chroot.
local function as_root(what)
  local options = must("id -u") == "0\n" and what:gsub("r", "") or what
  if options == "-" or shell.run("unshare " .. options .. " true").status ~= 0 then return "" end
  return "unshare " .. options
end

-- What lets stock lua find the module under a prefix.
local function paths(where)
  return ("LUA_CPATH='%s/lib/lua/5.4/?.so' LUA_PATH='%s/share/lua/5.4/?.lua'"):format(where, where)
end

describe("packaging", function()
  -- Installed in one place by way of DESTDIR, and moved to another.
  setup(function()
    folder = shell.folder()
    prefix = folder .. "/a prefix" -- must do with a blank, but for pkg-config
    must("DESTDIR=%s/stage cmake --install %s --prefix /opt/elsewhere", folder, build)
    must("mv %s/stage/opt/elsewhere '%s' && rmdir %s/stage/opt %s/stage", folder, prefix, folder, folder)
    must("ln -s 'a prefix' %s/prefix", folder)
    prefix = folder .. "/prefix"
    shell.write(folder .. "/main.c", CONSUMER:format("#include <lauxlib.h>\n#include <lualib.h>"))
    shell.write(folder .. "/main.cpp", CONSUMER:format("#include <lua.hpp>"))
  end)

  teardown(function()
    shell.remove(folder)
  end)

  it("installs what the contract lists, in its place", function()
    for _, path in ipairs {
      "bin/mantichora", "lib/lua/5.4/mantichora.so", "share/lua/5.4/mantichora/logging.lua",
      "share/lua/5.4/mantichora.d.lua", "share/lua/5.4/mantichora/atpbar.d.lua",
      "share/lua/5.4/mantichora/logging.d.lua",
      "lib/libmantichora.a", "lib/libmantichora.so", "lib/libmantichora.so.0", "include/mantichora.h",
      "lib/pkgconfig/mantichora.pc", "lib/cmake/mantichora/mantichora-config.cmake",
    } do
      must("test -e %s/%s", prefix, path)
    end
  end)

  it("names no place that it was built in or installed to", function()
    local root = must("pwd"):match("[^\n]+")
    assert.are.equal("", must("grep -rIl -e /opt/elsewhere -e %s %s/. || true", shell.quote(root), prefix))
    for _, path in ipairs { "bin/mantichora", "lib/libmantichora.so", "lib/lua/5.4/mantichora.so" } do
      assert.are.equal("", must("readelf -d %s/%s | grep -i 'r.*path' || true", prefix, path))
    end
  end)

  it("gives stock lua a module that can be required part by part, from anywhere", function()
    works(("cd / && %s %s -e"):format(paths(prefix), shell.lua))
    for _, part in ipairs { "mantichora", "mantichora.logging", "mantichora.atpbar" } do
      assert.are.equal("true\n", must("cd / && %s %s -e 'print(require \"%s\" ~= nil)'", paths(prefix), shell.lua,
        part))
    end
  end)

  it("has the Lua parts inside the module", function()
    works(("cd / && LUA_CPATH='%s/lib/lua/5.4/?.so' LUA_PATH='' %s -e"):format(prefix, shell.lua))
  end)

  it("has a host that works alone", function()
    must("cp %s/bin/mantichora %s/alone", prefix, folder)
    assert.are.equal("mantichora " .. version() .. "\n",
      must("cd / && LUA_CPATH= LUA_PATH= %s/alone -e '%s'", folder, SCRIPT))
    assert.are.equal("", must("readelf -d %s/alone | grep -i 'r.*path' || true", folder))
    local libraries = must("readelf -d %s/alone | sed -n 's/.*(NEEDED).*\\[\\(.*\\)\\]/\\1/p'", folder)
    for library in libraries:gmatch("%S+") do
      assert.truthy(library:find("^liblua") or library:find("^libc%.") or library:find("^libm%.")
        or library:find("^libdl") or library:find("^libpthread"), library)
    end
  end)

  it("has a manual page, which knows all options", function()
    local page = prefix .. "/share/man/man1/mantichora.1"
    local got = shell.run("LC_ALL=C groff -ww -mdoc -Tascii -P-cbou " .. page)
    assert.are.equal("", got.err)
    for option in must("%s/bin/mantichora --help", prefix):gmatch("\n  (%-[%w-]*)") do
      assert.truthy(got.out:find(" " .. option, 1, true), option)
    end
    local modes = shell.run(prefix .. "/bin/mantichora --progress x").err:match("must be ([^:]*)")
    for mode in modes:gmatch("%l+") do
      assert.truthy(got.out:find(" " .. mode, 1, true), mode)
    end
    local variables = must("grep -rhoE 'getenv\\(\"MANTICHORA_[A-Z_]+' runtime bindings scripts/mantichora")
    for variable in variables:gmatch('"(%S+)') do
      local ours = variable == "MANTICHORA_CHAOS" or variable == "MANTICHORA_TEST_ROOT" -- for tests
        or variable == "MANTICHORA_WITHOUT" -- for benchmarks
      assert.truthy(ours or got.out:find(variable, 1, true), variable)
    end
  end)

  it("has a host that can be built without libedit and yajl, and is plain then", function()
    must("cc -std=c11 -Wall -Wextra -Wconversion -Werror -DMANTICHORA_VERSION='\"0\"' -I. "
      .. "bindings/host/*.c bindings/commands/*.c bindings/hosts/*.c bindings/web/*.c "
      .. "runtime/commands/*.c runtime/web/*.c %s/embedded_commands.c %s/embedded_web.c "
      .. "-o %s/plain %s/lib/libmantichora.a "
      .. "$(pkg-config --cflags --libs lua5.4) -pthread", build, build, folder, build)
    assert.are.equal("> 42\n> \n", (must("echo '6 * 7' | %s/plain -i", folder):gsub("^[^\n]*\n", "")))
    local told = shell.run(("echo 1 | %s/plain map _"):format(folder))
    assert.are.equal(255, told.status)
    assert.truthy(told.err:find("libyajl-dev", 1, true))
    assert.are.equal("1\n", must("echo 1 | %s/plain map --in lines _", folder))
  end)

  it("shows no symbols of what is linked into it", function()
    local names = "' (el_|history|tget|strl|MD5|yajl)'"
    assert.are.equal("", must("nm -D --defined-only %s/bin/mantichora | grep -E %s || true", prefix, names))
  end)

  it("links no Lua into module and library, and exports nothing but ours", function()
    for _, file in ipairs { "lib/lua/5.4/mantichora.so", "lib/libmantichora.so" } do
      for _, name in ipairs(needed(prefix .. "/" .. file)) do assert.falsy(name:find("lua"), name) end
      local symbols = must("nm -D --defined-only %s/%s", prefix, file)
      assert.truthy(symbols:find("luaopen_mantichora\n"))
      for symbol in symbols:gmatch(" (%S+)\n") do
        assert.truthy(symbol:find("^luaopen_mantichora") or symbol:find("^mantichora_"), symbol)
      end
    end
    for symbol in must("nm -g --defined-only %s/lib/libmantichora.a", prefix):gmatch(" %u (%S+)\n") do
      assert.truthy(symbol:find("^luaopen_mantichora") or symbol:find("^mantichora_") or symbol:find("^mch_"), symbol)
    end
    assert.truthy(must("readelf -d %s/lib/libmantichora.so", prefix):find("soname: [libmantichora.so.0]", 1, true))
  end)

  it("builds programs by pkg-config: shared, static, without any library; in C and C++", function()
    local pc = ("PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config"):format(prefix)
    assert.are.equal(version() .. "\n", must("%s --modversion mantichora", pc))
    for compiler, source in pairs { cc = "main.c", ["c++"] = "main.cpp" } do
      must("cd %s && %s %s -o with_pc $(%s --cflags --libs mantichora) -Wl,-rpath,%s/lib", folder, compiler, source,
        pc, prefix)
      works(folder .. "/with_pc")
      must("cd %s && %s %s -o with_a $(%s --cflags mantichora) %s/lib/libmantichora.a $(pkg-config --libs lua5.4)",
        folder, compiler, source, pc, prefix)
      works(folder .. "/with_a")
      must("cd %s && %s -static %s -o alone $(%s --static --cflags --libs mantichora)", folder, compiler, source, pc)
      works(folder .. "/alone")
    end
  end)

  it("gives programs a run path, unless the loader looks there or it is a package", function()
    local function has_run_path(root, libdir)
      local pc = shell.run(("grep -c rpath '%s/%s/pkgconfig/mantichora.pc'"):format(root, libdir)).out
      local targets = shell.run(("grep -c 'rpath' '%s/%s/cmake/mantichora/mantichora-config.cmake'"):format(root,
        libdir)).out
      assert.are.equal(pc, targets)
      return pc == "1\n"
    end
    assert.is_false(has_run_path(prefix, "lib")) -- by DESTDIR
    local plain = folder .. "/usual"
    must("cmake --install %s --prefix %s", build, plain)
    assert.is_true(has_run_path(plain, "lib"))
    -- The line of the manual is enough; and CMake writes it into programs that are installed, too.
    must("cd %s && cc main.c -o bare $(PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config --cflags --libs mantichora)", folder,
      plain)
    works(folder .. "/bare")
    local where = folder .. "/installed"
    must("mkdir %s", where)
    shell.write(where .. "/CMakeLists.txt", CMAKE:format("C", version(), "../main.c", "../main.c")
      .. "\ninstall(TARGETS shared DESTINATION bin)\n")
    must("cmake -S %s -B %s/b '-DCMAKE_PREFIX_PATH=%s' && cmake --build %s/b", where, where, plain, where)
    must("cmake --install %s/b --prefix %s/p", where, where)
    works(where .. "/p/bin/shared")
    for folder_of, expected in pairs {
      ["/usr/lib"] = false, ["/lib"] = false, ["/usr/lib/x86_64-linux-gnu"] = false, ["/usr/lib64"] = false,
      ["/usr/local/lib"] = true, ["/opt/lib"] = true, ["/usr/libexec"] = true,
    } do
      -- Where `cmake --install` would put it, without touching that: the decision alone.
      local script = folder .. "/decide.cmake"
      shell.write(script, ([[
        function(file)
          message("taken out")
        endfunction()
        set(mantichora_libdir "%s")
        include("%s/runtime/runpath.cmake")
      ]]):format(folder_of, os.getenv "PWD"))
      local got = shell.run("env -u DESTDIR cmake -P " .. script)
      assert.are.equal(not expected, got.err:find("taken out", 1, true) ~= nil, folder_of)
    end
  end)

  it("builds programs by find_package: shared and static; in C and C++", function()
    for language, source in pairs { C = "main.c", CXX = "main.cpp" } do
      local where = folder .. "/in_" .. language
      must("mkdir %s", where)
      shell.write(where .. "/CMakeLists.txt", CMAKE:format(language, version(), "../" .. source, "../" .. source))
      must("cmake -S %s -B %s/b '-DCMAKE_PREFIX_PATH=%s' && cmake --build %s/b", where, where, prefix, where)
      works(where .. "/b/shared")
      works(where .. "/b/static")
    end
  end)

  it("has a header for C99 and C++", function()
    shell.write(folder .. "/only.c", "#include <mantichora.h>\nint main(void) { return 0; }\n")
    must("cc -std=c99 -pedantic -Wall -Wextra -Werror -I%s/include -fsyntax-only %s/only.c", prefix, folder)
    must("c++ -std=c++11 -pedantic -Wall -Wextra -Werror -I%s/include -fsyntax-only -x c++ %s/only.c", prefix, folder)
  end)

  it("has a host that works in a world with Lua and the C library only", function()
    local root = folder .. "/root"
    must("mkdir -p %s/dev && : >%s/dev/null && cp %s/bin/mantichora %s", root, root, prefix, root)
    must("for lib in $(ldd %s/mantichora | grep -o '/lib[^ ]*'); do " ..
      "mkdir -p %s/$(dirname $lib) && cp -L $lib %s/$lib; done", root, root, root)
    local libraries = {}
    for name in must("find %s -type f -name '*.so*'", root):gmatch("/([^/\n]+)\n") do libraries[name] = true end
    for name in pairs(libraries) do
      assert.truthy(name:find("^ld%-linux") or name:find("^libc%.") or name:find("^libm%.")
        or name:find("^liblua5%.4%.") or name:find("^libtinfo%."), "needs " .. name)
    end
    works(("env -i PATH=\"$PATH\" %s chroot %s /mantichora -e"):format(as_root("-r"), root))
  end)

  it("writes its version in one place", function()
    local number = version():gsub("%.", "%%%0")
    assert.truthy(must("cat CHANGELOG.md"):match("\n## %[" .. number .. "%]"), "CHANGELOG.md is about another version")
    local files = must("find *.md *.rockspec bindings runtime scripts spec -type f ! -path 'spec/fuzz/corpus*' "
      .. "! -name '*.svg' ! -name '*.png' ! -name '*.tsv'") -- pictures and figures are of a day
    -- What distributions take must name a version: each recipe names this one.
    for _, recipe in ipairs { "debian/changelog", "alpine/APKBUILD", "homebrew/mantichora.rb",
      "vcpkg/mantichora/vcpkg.json", "rock/mantichora-" .. version() .. "-1.rockspec" } do
      local file <close> = assert(io.open("scripts/packaging/" .. recipe), recipe)
      assert.truthy(file:read("a"):find("%f[%d]" .. number .. "%f[^%d]"), recipe .. " is about another version")
    end
    for path in files:gmatch("[^\n]+") do
      if path ~= "CHANGELOG.md" and not path:find("^scripts/packaging/") then
        local file <close> = assert(io.open(path, "rb"))
        assert.falsy(file:read("a"):find("%f[%d]" .. number .. "%f[^%d.]"), path .. " has the version written down")
      end
    end
  end)
end)

describe("Debian package", function()
  local root

  setup(function()
    folder = shell.folder()
    root = folder .. "/root"
    must("test -e %s/manual/man || cmake --build %s --target manual", build, build)
    must("cd %s && cpack -G DEB -B %s", build, folder)
    must("dpkg-deb -x %s/mantichora_*.deb %s", folder, root)
  end)

  teardown(function()
    shell.remove(folder)
  end)

  local function field(name)
    return must("dpkg-deb -f %s/mantichora_*.deb %s", folder, name):match("[^\n]*")
  end

  it("says what it needs", function()
    assert.are.equal(version() .. "-1", field("Version"))
    local depends = ", " .. field("Depends") .. ","
    for _, package in ipairs { "libc6", "liblua5%.4%-0", "lua5%.4" } do
      assert.truthy(depends:find(", " .. package .. "[ ,]"), depends)
    end
    assert.falsy(depends:find("gcc") or depends:find("%-dev"), depends)
  end)

  it("has no run path", function()
    assert.are.equal("", must("grep -rlI rpath %s/usr || true", root))
  end)

  it("puts the module where Debian's lua5.4 looks, and the rest where its tools do", function()
    local cpath, path = must("env -u LUA_PATH -u LUA_CPATH lua5.4 -e 'print(package.cpath) print(package.path)'")
      :match("([^\n]*)\n([^\n]*)")
    local function found(template, name)
      for place in template:gmatch("[^;]+") do
        local file = place:gsub("%?", name)
        if file:sub(1, 1) == "/" and shell.run(("test -e %s%s"):format(root, file)).status == 0 then return file end
      end
    end
    assert.truthy(found(cpath, "mantichora"), cpath)
    assert.truthy(found(path, "mantichora/logging"), path)
    for _, file in ipairs { "bin/mantichora", "lib/libmantichora.so.0", "include/mantichora.h",
      "lib/pkgconfig/mantichora.pc", "share/doc/mantichora/copyright", "share/doc/mantichora/html/index.html",
      "share/man/man3/mantichora.3.gz" } do
      must("test -e %s/usr/%s", root, file)
    end
  end)

  it("has a module and a program that work", function()
    works(("cd / && %s lua5.4 -e"):format(paths(root .. "/usr")))
    works(("cd / && %s/usr/bin/mantichora -e"):format(root))
  end)

  it("is what lintian expects", function()
    if shell.run("command -v lintian").status ~= 0 then
      pending("lintian is not installed")
      return
    end
    local known = "pkg%-config%-unavailable%-for%-cross%-compilation"  -- the layout is the same everywhere
    for line in must("lintian --allow-root --fail-on none %s/mantichora_*.deb", folder):gmatch("[^\n]+") do
      assert.truthy(line:find(known) or line:find("initial-upload-closes-no-bugs", 1, true), line)
    end
  end)
end)

describe("Debian source", function()
  local packaging = "scripts/packaging/debian/"

  it("names all that the library exports, and the manual pages and modules that there are", function()
    local symbols = must("cat %slibmantichora0.symbols", packaging)
    for name in must("nm -D --defined-only %s/lib/libmantichora.so", build):gmatch("%x+ T (%S+)") do
      assert.truthy(symbols:find(" " .. name .. "@Base ", 1, true), name)
    end
    local copyright, licence = must("cat %scopyright", packaging), must("cat LICENSE")
    local function words(text)
      return (text:gsub("\n ?%.?", " "):gsub("%s+", " "))
    end
    assert.truthy(words(copyright):find(words(licence):match("Redistribution.*DAMAGE%."), 1, true))
    -- Each package test that control names is there to be run, and each file of theirs is named.
    local named, there = {}, must("cd %stests && find . -type f -perm -u+x ! -name control", packaging)
    local control <close> = assert(io.open(packaging .. "tests/control"))
    for name in control:read("a"):gmatch("Tests: (%S+)\n") do
      named[#named + 1] = "./" .. name
      must("sh -n %stests/%s", packaging, name)
    end
    local files = {}
    for file in there:gmatch("%S+") do files[#files + 1] = file end
    table.sort(named)
    table.sort(files)
    assert.same(files, named)
  end)
end)

describe("rock", function()
  setup(function()
    folder = shell.folder()
  end)

  teardown(function()
    shell.remove(folder)
  end)

  -- In a copy of the tree, because luarocks builds in place.
  it("is built and installed by `luarocks make`, without a network", function()
    must("cp -r *.txt *.md *.rockspec LICENSE runtime bindings scripts %s", folder)
    must("cd %s && CMAKE_BUILD_PARALLEL_LEVEL=2 %s luarocks --lua-version 5.4 --tree %s/rocks make", folder,
      as_root("-rn"), folder)
    works(("cd / && %s lua5.4 -e"):format(paths(folder .. "/rocks")))
    for _, name in ipairs(needed(folder .. "/rocks/lib/lua/5.4/mantichora.so")) do
      assert.falsy(name:find("lua"), name)
    end
    assert.are.equal("", must("find %s/rocks -name 'libmantichora*'", folder))
  end)
end)
