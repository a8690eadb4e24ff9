// A C++ program with a loop of its own, as mantichora.h describes it. Built and run by
// spec/capi_spec.lua.

#include <mantichora.h>

#include <lua.hpp>
#include <poll.h>

#include <cstdio>
#include <string>
#include <vector>

struct Engine {
  std::vector<std::string> lines;
  int logs = 0, starts = 0, ends = 0;
};

static void show_log(void *ud, const mantichora_log *record) {
  static_cast<Engine *>(ud)->logs += std::string(record->message) == "baked";
}

static void show_progress(void *ud, const mantichora_progress *report) {
  Engine &engine = *static_cast<Engine *>(ud);
  engine.starts += report->event == MANTICHORA_BAR_START;
  engine.ends += report->event == MANTICHORA_BAR_END && report->done == report->total;
}

static void show_output(void *ud, const mantichora_output *output) {
  static_cast<Engine *>(ud)->lines.emplace_back(output->line, output->length);
}

static void drop_handles(void *) { std::puts("dropped"); }

static const char script[] = R"(
  local mantichora = require "mantichora"
  local atpbar = require "mantichora.atpbar"
  local logging = require "mantichora.logging"
  pool = mantichora { nworkers = 2, background = false }
  for tile = 1, 4 do
    pool:run(function()
      for _ in atpbar(10, "tile " .. tile) do end
      logging.warning("baked")
      return tile
    end)
  end
)";

int main() {
  lua_State *L = luaL_newstate();
  Engine engine;
  int waiting = 0;
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_pop(L, 1);
  mantichora_set_log_sink(L, show_log, &engine);
  mantichora_set_progress_sink(L, show_progress, &engine);
  mantichora_set_output_sink(L, show_output, &engine);
  mantichora_set_child_hook(L, drop_handles, nullptr);
  if (luaL_dostring(L, script) != LUA_OK)
    std::puts(lua_tostring(L, -1));
  while ((waiting = mantichora_poll(L, 0)) >= 0 && waiting < 4) {
    pollfd fd = {mantichora_fd(L), POLLIN, 0};
    double seconds = mantichora_timeout(L);
    poll(&fd, 1, seconds < 0 || seconds > 60 ? 60000 : static_cast<int>(seconds * 1000) + 1);
  }
  if (waiting < 0)
    std::puts(mantichora_error(L));
  luaL_dostring(L, "pool:close()");
  std::printf("%d waiting, %d logs, %d starts, %d ends, %d dropped\n", waiting, engine.logs, engine.starts,
              engine.ends, static_cast<int>(engine.lines.size()));
  lua_close(L);
}
