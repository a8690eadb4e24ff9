/* An engine of 60 frames a second that bakes a picture in the background: bake.lua traces its tiles
 * in workers, as Lua tasks. The engine draws their progress itself, shows tiles as they come, and
 * measures whether the pool ever costs it a frame.
 *
 *     engine [--workers N] [--size WxH] [--tile N] [--samples N] [--script FILE]
 *            [--frames N]           end when N frames were drawn and the picture is baked
 *            [--measure N]          first draw N frames without the pool; print a table at the end
 *            [--screenshot FILE N]  write the frame in which N tiles are there as PNG
 *            [--picture FILE]       write the picture as PPM
 *
 * Where mantichora comes in: open_scripts(), the three functions above it, and work(). */
#define _XOPEN_SOURCE 700
#include <SDL.h>
#include <SDL2_gfxPrimitives.h>
#include <lauxlib.h>
#include <lualib.h>
#include <mantichora.h>
#include <png.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 800, HEIGHT = 450, MARGIN = 20, MOST_TILES = 4096, LOG_LINES = 4, GRAPH = 240 };

static const double frame_seconds = 1.0 / 60;

enum tile_state { QUEUED, RUNNING, DONE };

struct tile {
  SDL_Rect area;
  enum tile_state state;
  double done; /* 0 to 1 */
};

/* Durations of one thing in all frames, in seconds. */
struct series {
  double *values;
  size_t count, room;
};

struct options {
  int workers, width, height, tile, samples, frames, measure, screenshot_tiles;
  const char *script, *screenshot, *picture;
};

struct engine {
  struct options options;
  SDL_Window *window;
  SDL_Renderer *renderer;
  SDL_Texture *texture; /* what is baked so far */
  unsigned char *pixels;
  lua_State *L;
  int bake;  /* registry reference of what bake.lua returns */
  int diary; /* a descriptor that workers have no business with */
  struct tile tiles[MOST_TILES];
  int tile_count, tiles_done;
  char log[LOG_LINES][96];
  int frame;
  double busy; /* of the last frame */
  float graph[GRAPH];
  struct series before, with;    /* frames without and with the pool */
  struct series inside, working; /* the pool's calls, and their processor time */
};

static void fail(const char *what, const char *why) {
  fprintf(stderr, "engine: %s: %s\n", what, why);
  exit(1);
}

static double read_clock(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double now(void) {
  return read_clock(CLOCK_MONOTONIC);
}

static double worked(void) {
  return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* -- mantichora --------------------------------------------------------------------------- */

/* A progress sink: the bar of a task is the progress of its tile. */
static void show_progress(void *ud, const struct mantichora_progress *report) {
  struct engine *engine = ud;
  struct tile *tile = &engine->tiles[report->runid];
  if (report->runid < 0 || report->runid >= engine->tile_count || tile->state == DONE)
    return;
  tile->state = RUNNING;
  tile->done = report->total > 0 ? (double)report->done / (double)report->total : 1;
}

/* A log sink: the last lines stand on the screen. */
static void show_log(void *ud, const struct mantichora_log *record) {
  struct engine *engine = ud;
  memmove(engine->log[0], engine->log[1], sizeof engine->log - sizeof engine->log[0]);
  snprintf(engine->log[LOG_LINES - 1], sizeof engine->log[0], "%s: %s", record->level_name,
           record->message);
}

/* The child hook, in a new worker: it drops what it has no business with, and stands back where the
 * engine needs the processor. */
static void drop_handles(void *ud) {
  struct engine *engine = ud;
  close(engine->diary);
  if (nice(19) == -1)
    return; /* then not */
}

static int lua_queued(lua_State *L) {
  struct engine *engine = lua_touserdata(L, lua_upvalueindex(1));
  lua_Integer runid = luaL_checkinteger(L, 1);
  luaL_argcheck(L, runid >= 0 && runid < MOST_TILES, 1, "too many tiles");
  engine->tile_count = (int)runid + 1;
  engine->tiles[runid].area =
      (SDL_Rect){(int)luaL_checkinteger(L, 2), (int)luaL_checkinteger(L, 3),
                 (int)luaL_checkinteger(L, 4), (int)luaL_checkinteger(L, 5)};
  return 0;
}

static int lua_tile(lua_State *L) {
  struct engine *engine = lua_touserdata(L, lua_upvalueindex(1));
  struct tile *tile = &engine->tiles[luaL_checkinteger(L, 1)];
  size_t length, pitch = 3 * (size_t)engine->options.width;
  const char *bytes = luaL_checklstring(L, 2, &length);
  size_t row = 3 * (size_t)tile->area.w;
  luaL_argcheck(L, length == row * (size_t)tile->area.h, 2, "not the size of its tile");
  for (int y = 0; y < tile->area.h; y++)
    memcpy(engine->pixels + (size_t)(tile->area.y + y) * pitch + 3 * (size_t)tile->area.x,
           bytes + (size_t)y * row, row);
  SDL_UpdateTexture(engine->texture, &tile->area, bytes, (int)row);
  tile->state = DONE;
  engine->tiles_done++;
  return 0;
}

/* Call a function of bake.lua with so many arguments, which are on the stack. */
static void call(struct engine *engine, const char *name, int arguments) {
  lua_State *L = engine->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, engine->bake);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  lua_insert(L, -arguments - 1);
  if (lua_pcall(L, arguments, 0, 0) != LUA_OK)
    fail(name, luaL_tolstring(L, -1, NULL));
}

static void open_scripts(struct engine *engine) {
  lua_State *L = engine->L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "mantichora", luaopen_mantichora, 0);
  lua_newtable(L);
  lua_pushlightuserdata(L, engine);
  lua_pushcclosure(L, lua_queued, 1);
  lua_setfield(L, -2, "queued");
  lua_pushlightuserdata(L, engine);
  lua_pushcclosure(L, lua_tile, 1);
  lua_setfield(L, -2, "tile");
  lua_setglobal(L, "engine");
  mantichora_set_progress_sink(L, show_progress, engine);
  mantichora_set_log_sink(L, show_log, engine);
  mantichora_set_child_hook(L, drop_handles, engine);
  if (luaL_dofile(L, engine->options.script) != LUA_OK)
    fail(engine->options.script, lua_tostring(L, -1));
  engine->bake = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_settop(L, 0);
  lua_pushinteger(L, engine->options.workers);
  call(engine, "load", 1);
}

static void start_baking(struct engine *engine) {
  lua_pushinteger(engine->L, engine->options.width);
  lua_pushinteger(engine->L, engine->options.height);
  lua_pushinteger(engine->L, engine->options.tile);
  lua_pushinteger(engine->L, engine->options.samples);
  call(engine, "start", 4);
}

/* What a frame does for the pool: never waits. */
static void work(struct engine *engine) {
  int waiting;
  if (engine->tile_count == 0)
    start_baking(engine);
  waiting = mantichora_poll(engine->L, 0);
  if (waiting < 0)
    fail("poll", mantichora_error(engine->L));
  if (waiting > 0)
    call(engine, "receive", 0);
}

/* -- drawing ------------------------------------------------------------------------------ */

static void text(struct engine *engine, int x, int y, const char *line) {
  stringRGBA(engine->renderer, (Sint16)x, (Sint16)y, line, 210, 214, 220, 255);
}

static void box(struct engine *engine, SDL_Rect area, Uint8 r, Uint8 g, Uint8 b, Uint8 a) {
  SDL_SetRenderDrawColor(engine->renderer, r, g, b, a);
  SDL_RenderFillRect(engine->renderer, &area);
}

/* The picture, over each tile that is being baked its progress. */
static void draw_picture(struct engine *engine) {
  SDL_Rect all = {MARGIN, MARGIN, engine->options.width, engine->options.height};
  SDL_RenderCopy(engine->renderer, engine->texture, NULL, &all);
  for (int i = 0; i < engine->tile_count; i++) {
    const struct tile *tile = &engine->tiles[i];
    SDL_Rect area = {MARGIN + tile->area.x, MARGIN + tile->area.y, tile->area.w, tile->area.h};
    if (tile->state != RUNNING)
      continue;
    box(engine, area, 60, 66, 80, 255);
    area.h = (int)(tile->done * area.h);
    box(engine, area, 230, 150, 60, 255);
  }
}

/* One line with a bar for each tile that is being baked. */
static void draw_tasks(struct engine *engine, int x, int y) {
  char line[64];
  for (int i = 0; i < engine->tile_count && y < 220; i++) {
    const struct tile *tile = &engine->tiles[i];
    if (tile->state != RUNNING)
      continue;
    snprintf(line, sizeof line, "tile %d", i + 1);
    text(engine, x, y, line);
    box(engine, (SDL_Rect){x + 80, y, 160, 8}, 60, 66, 80, 255);
    box(engine, (SDL_Rect){x + 80, y, (int)(160 * tile->done), 8}, 230, 150, 60, 255);
    y += 14;
  }
}

/* How much of its time each of the last frames took. */
static void draw_graph(struct engine *engine, int x, int y) {
  box(engine, (SDL_Rect){x, y, GRAPH, 60}, 34, 38, 48, 255);
  for (int i = 0; i < GRAPH; i++) {
    float share = engine->graph[(engine->frame + i) % GRAPH];
    int height = (int)(60 * (share < 1 ? share : 1));
    box(engine, (SDL_Rect){x + i, y + 60 - height, 1, height}, share < 1 ? 90 : 240,
        share < 1 ? 200 : 60, 90, 255);
  }
}

/* Something that moves, so that an eye sees a frame that is late. */
static void draw_wheel(struct engine *engine, Sint16 x, Sint16 y) {
  int start = engine->frame * 4 % 360;
  filledCircleRGBA(engine->renderer, x, y, 26, 34, 38, 48, 255);
  for (int i = 0; i < 3; i++)
    filledPieRGBA(engine->renderer, x, y, 26, (Sint16)(start + 120 * i),
                  (Sint16)(start + 120 * i + 50), 90, 160, 230, 255);
}

static void draw(struct engine *engine) {
  int x = MARGIN * 2 + engine->options.width;
  char line[64];
  SDL_SetRenderDrawColor(engine->renderer, 22, 24, 32, 255);
  SDL_RenderClear(engine->renderer);
  draw_picture(engine);
  snprintf(line, sizeof line, "%d of %d tiles", engine->tiles_done, engine->tile_count);
  text(engine, x, MARGIN, line);
  draw_tasks(engine, x, MARGIN + 20);
  snprintf(line, sizeof line, "frame %d: %.1f of %.1f ms", engine->frame, engine->busy * 1e3,
           frame_seconds * 1e3);
  text(engine, x, 240, line);
  draw_graph(engine, x, 254);
  draw_wheel(engine, (Sint16)(x + 30), 354);
  for (int i = 0; i < LOG_LINES; i++)
    text(engine, MARGIN, MARGIN * 2 + engine->options.height + 12 * i, engine->log[i]);
}

/* -- files -------------------------------------------------------------------------------- */

static void write_screenshot(struct engine *engine) {
  unsigned char *pixels = malloc(3 * WIDTH * HEIGHT);
  png_image image = {
      .version = PNG_IMAGE_VERSION, .width = WIDTH, .height = HEIGHT, .format = PNG_FORMAT_RGB};
  if (pixels == NULL ||
      SDL_RenderReadPixels(engine->renderer, NULL, SDL_PIXELFORMAT_RGB24, pixels, 3 * WIDTH) != 0)
    fail("screenshot", SDL_GetError());
  if (!png_image_write_to_file(&image, engine->options.screenshot, 0, pixels, 0, NULL))
    fail(engine->options.screenshot, image.message);
  free(pixels);
}

static void write_picture(struct engine *engine) {
  size_t count = 3 * (size_t)engine->options.width * (size_t)engine->options.height;
  FILE *file = fopen(engine->options.picture, "wb");
  if (file == NULL)
    fail(engine->options.picture, "cannot be written");
  fprintf(file, "P6\n%d %d\n255\n", engine->options.width, engine->options.height);
  fwrite(engine->pixels, 1, count, file);
  fclose(file);
}

/* -- measuring ---------------------------------------------------------------------------- */

static void add(struct series *series, double value) {
  if (series->count == series->room) {
    series->room = series->room == 0 ? 1024 : series->room * 2;
    series->values = realloc(series->values, series->room * sizeof *series->values);
    if (series->values == NULL)
      fail("frame times", "not enough memory");
  }
  series->values[series->count++] = value;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_series(const char *what, struct series *series) {
  size_t dropped = 0, n = series->count;
  if (n == 0)
    return;
  qsort(series->values, n, sizeof *series->values, compare);
  for (size_t i = 0; i < n; i++)
    dropped += series->values[i] > frame_seconds;
  printf("%-28s %7zu %8.3f %8.3f %8.3f %8zu\n", what, n, series->values[n / 2] * 1e3,
         series->values[n * 99 / 100] * 1e3, series->values[n - 1] * 1e3, dropped);
}

static void print_table(struct engine *engine) {
  printf("%-28s %7s %8s %8s %8s %8s\n", "milliseconds", "frames", "median", "99 %", "worst",
         "dropped");
  print_series("frame without the pool", &engine->before);
  print_series("frame while it bakes", &engine->with);
  print_series("of that: the pool's calls", &engine->inside);
  print_series("their processor time", &engine->working);
}

/* -- the loop ----------------------------------------------------------------------------- */

static void sleep_until(double time) {
  struct timespec moment = {(time_t)time, (long)((time - (double)(time_t)time) * 1e9)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL) != 0)
    ;
}

static bool wants_to_go_on(void) {
  SDL_Event event;
  bool on = true;
  while (SDL_PollEvent(&event))
    on = on && event.type != SDL_QUIT;
  return on;
}

static bool is_baked(const struct engine *engine) {
  return engine->tile_count > 0 && engine->tiles_done == engine->tile_count;
}

/* One frame, from its start to its picture on the screen; `baking`: with the pool. */
static void do_frame(struct engine *engine, bool baking) {
  double start = now(), worked_before = worked();
  bool measured = !is_baked(engine);
  char line[64];
  if (baking)
    work(engine);
  if (baking && measured) {
    add(&engine->inside, now() - start);
    add(&engine->working, worked() - worked_before);
  }
  draw(engine);
  SDL_RenderPresent(engine->renderer);
  engine->busy = now() - start;
  engine->graph[engine->frame++ % GRAPH] = (float)(engine->busy / frame_seconds);
  if (measured)
    add(baking ? &engine->with : &engine->before, engine->busy);
  snprintf(line, sizeof line, "%.6f\n", engine->busy);
  if (write(engine->diary, line, strlen(line)) < 0)
    fail("diary", "cannot be written");
}

static void run_frames(struct engine *engine) {
  struct options *options = &engine->options;
  double next = now();
  while (wants_to_go_on()) {
    int baked = engine->frame - options->measure + 1; /* frames with the pool, this one too */
    do_frame(engine, baked > 0);
    if (options->screenshot != NULL && engine->tiles_done >= options->screenshot_tiles) {
      write_screenshot(engine);
      options->screenshot = NULL;
    }
    if (options->frames > 0 && baked >= options->frames && is_baked(engine))
      return;
    next += frame_seconds;
    if (next < now())
      next = now(); /* a frame was dropped: go on from here */
    sleep_until(next);
  }
}

/* -- start and end ------------------------------------------------------------------------ */

static int positive(const char *option, const char *value) {
  int n = value != NULL ? atoi(value) : 0;
  if (n < 1)
    fail(option, "a positive number is missing");
  return n;
}

static void parse(struct options *options, int argc, char **argv) {
  for (int i = 1; i < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (strcmp(name, "--workers") == 0)
      options->workers = positive(name, value);
    else if (strcmp(name, "--tile") == 0)
      options->tile = positive(name, value);
    else if (strcmp(name, "--samples") == 0)
      options->samples = positive(name, value);
    else if (strcmp(name, "--frames") == 0)
      options->frames = positive(name, value);
    else if (strcmp(name, "--measure") == 0)
      options->measure = positive(name, value);
    else if (strcmp(name, "--script") == 0 && value != NULL)
      options->script = value;
    else if (strcmp(name, "--picture") == 0 && value != NULL)
      options->picture = value;
    else if (strcmp(name, "--screenshot") == 0 && value != NULL) {
      options->screenshot = value;
      options->screenshot_tiles = positive(name, argv[i++ + 2]);
    } else if (strcmp(name, "--size") != 0 || value == NULL ||
               sscanf(value, "%dx%d", &options->width, &options->height) != 2)
      fail(name, "unknown option, or its value is missing; engine.c lists them");
  }
  if (options->width < 1 || options->width > 480 || options->height < 1 || options->height > 360)
    fail("--size", "at most 480x360");
}

static void open_window(struct engine *engine) {
  if (SDL_Init(SDL_INIT_VIDEO) != 0)
    fail("SDL", SDL_GetError());
  engine->window = SDL_CreateWindow("mantichora bakes", SDL_WINDOWPOS_CENTERED,
                                    SDL_WINDOWPOS_CENTERED, WIDTH, HEIGHT, 0);
  if (engine->window != NULL)
    engine->renderer = SDL_CreateRenderer(engine->window, -1, SDL_RENDERER_SOFTWARE);
  if (engine->renderer != NULL)
    engine->texture =
        SDL_CreateTexture(engine->renderer, SDL_PIXELFORMAT_RGB24, SDL_TEXTUREACCESS_STATIC,
                          engine->options.width, engine->options.height);
  if (engine->texture == NULL)
    fail("SDL", SDL_GetError());
  engine->pixels = calloc(3 * (size_t)engine->options.width, (size_t)engine->options.height);
  if (engine->pixels == NULL)
    fail("picture", "not enough memory");
  SDL_UpdateTexture(engine->texture, NULL, engine->pixels, 3 * engine->options.width);
}

static void close_all(struct engine *engine) {
  call(engine, "stop", 0);
  lua_close(engine->L);
  close(engine->diary);
  SDL_DestroyTexture(engine->texture);
  SDL_DestroyRenderer(engine->renderer);
  SDL_DestroyWindow(engine->window);
  SDL_Quit();
  free(engine->pixels);
  free(engine->before.values);
  free(engine->with.values);
  free(engine->inside.values);
  free(engine->working.values);
}

int main(int argc, char **argv) {
  static struct engine engine = {.options = {.workers = 2,
                                             .width = 480,
                                             .height = 360,
                                             .tile = 40,
                                             .samples = 16,
                                             .script = ENGINE_SCRIPT}};
  parse(&engine.options, argc, argv);
  engine.diary = fileno(tmpfile());
  open_window(&engine);
  open_scripts(&engine);
  run_frames(&engine);
  printf("%d of %d tiles\n", engine.tiles_done, engine.tile_count);
  if (engine.options.measure > 0)
    print_table(&engine);
  if (engine.options.picture != NULL)
    write_picture(&engine);
  close_all(&engine);
  return 0;
}
