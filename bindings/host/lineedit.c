/* Runs in: parent. Purpose: lineedit.h.
 *
 * libedit turns keys into changes of a line, and keeps the chunks that were typed before. It never
 * draws: its output goes to the null device. What is seen is drawn by output.h, so that the line,
 * the bars above it and what tasks say share one frame; and while no key comes, pools move on. */
#define _POSIX_C_SOURCE 200809L
#include "lineedit.h"

#if defined(MANTICHORA_LIBEDIT)

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include <lauxlib.h>

#include "runtime/base/buf.h"
#include "runtime/base/ending.h"
#include "history.h"
#include "runtime/show/hold.h"
#include "lcall.h"
#include "bindings/show/loutput.h"
#include "bindings/pool/lpool.h"
#include "runtime/show/output.h"
#include "runtime/base/platform.h"
#include "runtime/show/width.h"

struct mch_lineedit {
  lua_State *L;
  struct mch_output *output;
  EditLine *el;
  HistoryW *history;
  FILE *nowhere;      /* where libedit draws */
  locale_t locale;    /* in which characters beyond ASCII are letters */
  char *path;         /* of the history's file; NULL: none */
  int complete;       /* registry reference of the function for completion */
  int failures;       /* and of what tells of failed tasks */
  const char *prompt; /* of the line that is being edited */
  int pending[4];     /* bytes that were read too early, the first one last */
  int pendings;       /* how many there are */
  bool raw;           /* the terminal gives key by key */
  bool interrupted;   /* Ctrl-C */
  struct mch_buf shown;
};

/* --- text --- */

/* A byte that is not UTF-8 is kept in the line as this and the byte, a code that no character has.
 */
enum { ODD_BYTE = 0xDC00 };

static void put_code(struct mch_buf *to, wchar_t wide) {
  uint32_t code = (uint32_t)wide;
  if (code < 0x80)
    mch_buf_u8(to, (uint8_t)code);
  else if (code >= ODD_BYTE + 0x80 && code <= ODD_BYTE + 0xFF)
    mch_buf_u8(to, (uint8_t)(code - ODD_BYTE));
  else {
    int rest = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const uint8_t leads[] = {0, 0xC0, 0xE0, 0xF0};
    mch_buf_u8(to, (uint8_t)(leads[rest] | code >> 6 * rest));
    while (rest-- > 0)
      mch_buf_u8(to, (uint8_t)(0x80 | (code >> 6 * rest & 0x3F)));
  }
}

/* The other way; the caller's to free, NULL: no memory. */
static wchar_t *widen(const char *text) {
  size_t length = strlen(text), at = 0;
  wchar_t *wide = malloc((length + 1) * sizeof *wide), *to = wide;
  while (wide != NULL && at < length) {
    uint32_t code;
    size_t count = mch_width_decode(text + at, length - at, &code);
    if (code == MCH_UTF8_INVALID)
      code = ODD_BYTE + (uint32_t)(unsigned char)text[at];
    *to++ = (wchar_t)code;
    at += count;
  }
  if (wide != NULL)
    *to = L'\0';
  return wide;
}

/* As it is shown: rows after the first are indented, and what has no shape is written as ^X. */
static void show_code(struct mch_buf *to, wchar_t code) {
  if (code == L'\n')
    mch_buf_append(to, "\n  ", 3);
  else if (code == L'\t')
    mch_buf_append(to, "  ", 2);
  else if (code < 0x20 || code == 0x7F) {
    mch_buf_u8(to, '^');
    mch_buf_u8(to, (uint8_t)(code ^ 0x40));
  } else
    put_code(to, code);
}

static void begin(struct mch_lineedit *edit) {
  mch_buf_clear(&edit->shown);
  mch_buf_append(&edit->shown, edit->prompt, strlen(edit->prompt));
}

/* The prompt with the line as it is now; where the cursor is in it. */
static size_t compose(struct mch_lineedit *edit) {
  const LineInfoW *line = el_wline(edit->el);
  const wchar_t *code = line->buffer;
  size_t cursor;
  begin(edit);
  while (code < line->cursor)
    show_code(&edit->shown, *code++);
  cursor = mch_buf_unread(&edit->shown);
  while (code < line->lastchar)
    show_code(&edit->shown, *code++);
  return cursor;
}

static void show(struct mch_lineedit *edit) {
  size_t cursor = compose(edit);
  mch_output_edit(edit->output, (const char *)edit->shown.data, mch_buf_unread(&edit->shown),
                  cursor);
}

/* The line stays on the screen as it is. */
static void leave_line(struct mch_lineedit *edit) {
  mch_output_edit_end(edit->output, (const char *)edit->shown.data, mch_buf_unread(&edit->shown));
}

/* --- signals --- */

static const int watched[] = {SIGINT, SIGWINCH, SIGCONT, SIGTSTP, SIGTERM, SIGHUP, SIGQUIT};
enum { WATCHED = sizeof watched / sizeof *watched };

/* A signal handler has no other way to tell: which of them have come. */
static volatile sig_atomic_t came[WATCHED];

static void on_signal(int number) {
  int i;
  for (i = 0; i < WATCHED; i++)
    if (watched[i] == number)
      came[i] = 1;
}

static int has_come(void) {
  int i;
  for (i = 0; i < WATCHED; i++)
    if (came[i])
      return 1;
  return 0;
}

/* Take those that nobody else handles, and SIGINT and SIGWINCH. Former actions go to `before`. */
static void take_signals(struct sigaction *before) {
  struct sigaction action = {0};
  int i;
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (i = 0; i < WATCHED; i++) {
    came[i] = 0;
    sigaction(watched[i], NULL, &before[i]);
    if (mch_ending_is_usual(&before[i]) || watched[i] == SIGINT || watched[i] == SIGWINCH)
      sigaction(watched[i], &action, NULL);
  }
}

static void give_signals_back(const struct sigaction *before) {
  int i;
  for (i = 0; i < WATCHED; i++)
    if (mch_ending_is_usual(&before[i]))
      mch_ending_set_usual(watched[i]);
    else
      sigaction(watched[i], &before[i], NULL);
}

static void set_raw(struct mch_lineedit *edit, bool raw) {
  el_wset(edit->el, EL_PREP_TERM, raw);
  edit->raw = raw;
}

/* Do what the signal does without us: stop, or end. Somebody else has the terminal meanwhile. */
static void obey(struct mch_lineedit *edit, int number) {
  struct sigaction mine;
  leave_line(edit);
  mch_output_release(edit->output);
  set_raw(edit, false);
  sigaction(number, NULL, &mine);
  mch_ending_set_usual(number);
  raise(number);
  sigaction(number, &mine, NULL);
  set_raw(edit, true);
}

/* See to the signals that have come. */
static void look_at_signals(struct mch_lineedit *edit) {
  int i;
  for (i = 0; i < WATCHED; i++) {
    if (!came[i])
      continue;
    came[i] = 0;
    if (watched[i] == SIGINT)
      edit->interrupted = true;
    else if (watched[i] == SIGCONT)
      set_raw(edit, false); /* somebody may have changed it; libedit sets it again if it must */
    else if (watched[i] != SIGWINCH)
      obey(edit, watched[i]);
  }
  set_raw(edit, true);
}

/* --- keys --- */

/* Whether a key comes before `deadline`; pools do not move meanwhile. */
static bool has_key(uint64_t deadline) {
  static const int input = STDIN_FILENO;
  return mch_platform_await(&input, 1, deadline, NULL);
}

/* await(failures): whether a key is there, and what is to be told. */
static int await_key(lua_State *L) {
  lua_pushboolean(L, mch_lpool_await_failure(L, STDIN_FILENO, has_come));
  lua_insert(L, 1);
  lua_call(L, 0, 1);
  return 2;
}

/* Wait while pools move on: whether a key is there. What their handlers raise is told. */
static bool wait_for_key(struct mch_lineedit *edit) {
  static const char ctrl_c[] = "interrupted!";
  lua_State *L = edit->L;
  bool there = false;
  const char *message;
  lua_pushcfunction(L, await_key);
  lua_rawgeti(L, LUA_REGISTRYINDEX, edit->failures);
  if (mch_lcall(L, 1, false) == LUA_OK) {
    size_t length;
    there = lua_toboolean(L, -2);
    message = lua_tolstring(L, -1, &length);
    if (message != NULL)
      mch_output_lines(edit->output, STDOUT_FILENO, message, length);
    lua_pop(L, 2);
    return there;
  }
  message = lua_tostring(L, -1);
  if (message != NULL && strstr(message, ctrl_c) != NULL) {
    edit->interrupted = true;
    lua_pop(L, 1);
    return false;
  }
  mch_lcall_report(L, LUA_ERRRUN, NULL);
  return has_key(mch_now() + 100000000u);
}

/* One byte of what is typed; -1: Ctrl-C, or the end. */
static int next_byte(struct mch_lineedit *edit) {
  if (edit->pendings > 0)
    return edit->pending[--edit->pendings];
  /* What has been pasted is drawn as a whole. */
  if (!has_come() && has_key(0))
    return mch_platform_get_byte(STDIN_FILENO);
  show(edit);
  while (!edit->interrupted && !wait_for_key(edit)) {
    look_at_signals(edit);
    show(edit);
  }
  return edit->interrupted ? -1 : mch_platform_get_byte(STDIN_FILENO);
}

/* The bytes of a character with this first one. */
static size_t count_bytes(int lead) {
  return lead < 0xC2 || lead > 0xF4 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The next character, or a byte that belongs to none; the bytes behind it that were read for it are
 * kept. False: Ctrl-C, or the end. */
static bool next_code(struct mch_lineedit *edit, uint32_t *code) {
  char bytes[4] = {0};
  size_t wanted = 1, count = 0;
  while (count < wanted) {
    int byte = next_byte(edit);
    if (byte < 0 && count == 0)
      return false;
    if (byte < 0)
      break;
    if (count == 0)
      wanted = count_bytes(byte);
    bytes[count++] = (char)byte;
    if (count > 1 && (byte & 0xC0) != 0x80)
      break;
  }
  wanted = mch_width_decode(bytes, count, code);
  while (count > wanted)
    edit->pending[edit->pendings++] = (unsigned char)bytes[--count];
  if (*code == MCH_UTF8_INVALID)
    *code = ODD_BYTE + (uint32_t)(unsigned char)bytes[0];
  return true;
}

/* For libedit: the next character; 0 at the end, -1 when interrupted. */
static int get_key(EditLine *el, wchar_t *key) {
  struct mch_lineedit *edit;
  uint32_t code;
  el_wget(el, EL_CLIENTDATA, (void **)&edit);
  if (!next_code(edit, &code)) {
    errno = EINTR;
    return edit->interrupted ? -1 : 0;
  }
  *key = (wchar_t)code;
  return 1;
}

/* --- completion --- */

/* Insert this text before the cursor. */
static void insert(EditLine *el, const char *text) {
  wchar_t *wide = widen(text);
  if (wide != NULL)
    el_winsertstr(el, wide);
  free(wide);
}

/* The line up to the cursor. */
static void push_typed(struct mch_lineedit *edit) {
  const LineInfoW *line = el_wline(edit->el);
  const wchar_t *code;
  mch_buf_clear(&edit->shown);
  for (code = line->buffer; code < line->cursor; code++)
    put_code(&edit->shown, *code);
  lua_pushlstring(edit->L, (const char *)edit->shown.data, mch_buf_unread(&edit->shown));
}

/* What Tab does. */
static unsigned char complete(EditLine *el, int key) {
  struct mch_lineedit *edit;
  lua_State *L;
  size_t length;
  int top;
  (void)key;
  el_wget(el, EL_CLIENTDATA, (void **)&edit);
  L = edit->L;
  top = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, edit->complete);
  push_typed(edit);
  lua_pushinteger(L, (lua_Integer)mch_lineedit_columns(edit));
  if (mch_lcall_report(L, mch_lcall(L, 2, false), NULL) != LUA_OK)
    return CC_REFRESH;
  lua_settop(L, top + 2);
  if (lua_isstring(L, top + 1))
    insert(el, lua_tostring(L, top + 1));
  if (lua_isstring(L, top + 2)) {
    const char *lines = lua_tolstring(L, top + 2, &length);
    mch_output_lines(edit->output, STDOUT_FILENO, lines, length);
  }
  lua_settop(L, top);
  return CC_REFRESH;
}

/* Ctrl-L. */
static unsigned char clear_screen(EditLine *el, int key) {
  struct mch_lineedit *edit;
  (void)key;
  el_wget(el, EL_CLIENTDATA, (void **)&edit);
  mch_output_clear(edit->output);
  return CC_REFRESH;
}

/* --- life --- */

struct binding {
  const wchar_t *keys;
  const wchar_t *command;
};

static void bind_keys(EditLine *el) {
  /* What terminals send, whatever their descriptions say, and what people know from elsewhere. */
  static const struct binding bindings[] = {
      {L"\t", L"mch-complete"},
      {L"^L", L"mch-clear"},
      {L"^R", L"em-inc-search-prev"},
      {L"^[[A", L"ed-prev-history"},
      {L"^[OA", L"ed-prev-history"},
      {L"^[[B", L"ed-next-history"},
      {L"^[OB", L"ed-next-history"},
      {L"^[[C", L"ed-next-char"},
      {L"^[[D", L"ed-prev-char"},
      {L"^[[H", L"ed-move-to-beg"},
      {L"^[OH", L"ed-move-to-beg"},
      {L"^[[1~", L"ed-move-to-beg"},
      {L"^[[F", L"ed-move-to-end"},
      {L"^[OF", L"ed-move-to-end"},
      {L"^[[4~", L"ed-move-to-end"},
      {L"^[[3~", L"ed-delete-next-char"},
      {L"^[[1;5C", L"em-next-word"},
      {L"^[[1;5D", L"ed-prev-word"},
      {NULL, NULL},
  };
  const struct binding *binding;
  el_wset(el, EL_ADDFN, L"mch-complete", L"complete what is typed", complete);
  el_wset(el, EL_ADDFN, L"mch-clear", L"clear the screen", clear_screen);
  for (binding = bindings; binding->keys != NULL; binding++)
    el_wset(el, EL_BIND, binding->keys, binding->command, NULL);
}

static void add_to_history(void *ud, const char *chunk) {
  struct mch_lineedit *edit = ud;
  wchar_t *wide = widen(chunk);
  HistEventW event;
  if (wide != NULL)
    history_w(edit->history, &event, H_ENTER, wide);
  free(wide);
}

static void open_history(struct mch_lineedit *edit) {
  HistEventW event;
  history_w(edit->history, &event, H_SETSIZE, (int)MCH_HISTORY_MOST);
  history_w(edit->history, &event, H_SETUNIQUE, 1);
  el_wset(edit->el, EL_HIST, history_w, edit->history);
  edit->path = mch_history_path();
  if (edit->path != NULL)
    mch_history_load(edit->path, add_to_history, edit);
}

/* A locale whose characters are those of Unicode. */
static locale_t letters(void) {
  static const char *const names[] = {"C.UTF-8", "en_US.UTF-8", ""};
  locale_t locale = (locale_t)0;
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names && locale == (locale_t)0; i++)
    locale = newlocale(LC_CTYPE_MASK, names[i], (locale_t)0);
  return locale;
}

/* By exit(), which a handler may call while a line is edited. */
static void at_exit(void *ud) {
  struct mch_lineedit *edit = ud;
  if (edit->raw)
    set_raw(edit, false);
}

static bool open_editor(struct mch_lineedit *edit) {
  edit->nowhere = fopen("/dev/null", "we");
  edit->history = history_winit();
  if (edit->nowhere == NULL || edit->history == NULL)
    return false;
  edit->el = el_init_fd("mantichora", stdin, edit->nowhere, edit->nowhere, STDIN_FILENO,
                        STDOUT_FILENO, STDERR_FILENO);
  if (edit->el == NULL)
    return false;
  el_wset(edit->el, EL_CLIENTDATA, edit);
  el_wset(edit->el, EL_GETCFN, get_key);
  el_wset(edit->el, EL_EDITOR, L"emacs");
  el_source(edit->el, NULL); /* ~/.editrc */
  bind_keys(edit->el);
  open_history(edit);
  return true;
}

/* The one to come back to. */
static locale_t enter_locale(const struct mch_lineedit *edit) {
  return edit->locale != (locale_t)0 ? uselocale(edit->locale) : uselocale((locale_t)0);
}

struct mch_lineedit *mch_lineedit_new(lua_State *L) {
  struct mch_output *output = mch_loutput_get(L);
  struct mch_lineedit *edit = NULL;
  bool opened;
  locale_t before;
  int failures = luaL_ref(L, LUA_REGISTRYINDEX);
  int complete_with = luaL_ref(L, LUA_REGISTRYINDEX);
  if (isatty(STDIN_FILENO) && mch_output_can_edit(output))
    edit = calloc(1, sizeof *edit);
  if (edit == NULL)
    return NULL;
  edit->output = mch_output_ref(output);
  edit->complete = complete_with;
  edit->failures = failures;
  edit->locale = letters();
  before = enter_locale(edit);
  opened = open_editor(edit);
  uselocale(before);
  if (opened) {
    mch_hold_at_exit(at_exit, edit); /* where that cannot be, exit() leaves the terminal raw */
    return edit;
  }
  mch_lineedit_free(edit);
  return NULL;
}

/* Let libedit's loop run. The line, or NULL; its characters without the newline in *count. */
static const wchar_t *edit_line(struct mch_lineedit *edit, size_t *count) {
  struct sigaction before[WATCHED];
  locale_t locale = enter_locale(edit);
  const wchar_t *line;
  int read = 0;
  take_signals(before);
  edit->interrupted = false;
  edit->pendings = 0;
  edit->raw = true;
  line = el_wgets(edit->el, &read);
  edit->raw = false;
  give_signals_back(before);
  uselocale(locale);
  if (edit->interrupted || line == NULL || read <= 0)
    return NULL;
  *count = (size_t)read - (line[read - 1] == L'\n');
  return line;
}

/* The line is ended: what stays on the screen, and what it was. */
static void push_line(struct mch_lineedit *edit, const wchar_t *line, size_t count) {
  size_t i;
  begin(edit);
  for (i = 0; i < count; i++)
    show_code(&edit->shown, line[i]);
  leave_line(edit);
  mch_buf_clear(&edit->shown);
  for (i = 0; i < count; i++)
    put_code(&edit->shown, line[i]);
  if (edit->shown.failed != 0)
    luaL_error(edit->L, "not enough memory");
  lua_pushlstring(edit->L, (const char *)edit->shown.data, mch_buf_unread(&edit->shown));
}

enum mch_typed mch_lineedit_read(struct mch_lineedit *edit, lua_State *L, const char *prompt) {
  const wchar_t *line;
  size_t count;
  luaL_checkstack(L, LUA_MINSTACK, "too many lines");
  edit->L = L;
  edit->prompt = prompt;
  begin(edit);
  line = edit_line(edit, &count);
  if (line != NULL) {
    push_line(edit, line, count);
    return MCH_TYPED_LINE;
  }
  if (edit->interrupted)
    mch_buf_append(&edit->shown, "^C", 2);
  leave_line(edit);
  return edit->interrupted ? MCH_TYPED_CTRL_C : MCH_TYPED_END;
}

void mch_lineedit_remember(struct mch_lineedit *edit, const char *chunk) {
  if (chunk[0] == '\0')
    return;
  add_to_history(edit, chunk);
  if (edit->path != NULL)
    mch_history_append(edit->path, chunk);
}

unsigned mch_lineedit_columns(const struct mch_lineedit *edit) {
  return mch_output_columns(edit->output);
}

/* at_exit() may still look at it: so the structure itself stays. */
void mch_lineedit_free(struct mch_lineedit *edit) {
  if (edit == NULL)
    return;
  if (edit->el != NULL)
    el_end(edit->el);
  if (edit->history != NULL)
    history_wend(edit->history);
  if (edit->nowhere != NULL)
    fclose(edit->nowhere);
  if (edit->locale != (locale_t)0)
    freelocale(edit->locale);
  free(edit->path);
  mch_buf_free(&edit->shown);
  mch_output_unref(edit->output);
}

#else

struct mch_lineedit *mch_lineedit_new(lua_State *L) {
  lua_pop(L, 2);
  return NULL;
}

enum mch_typed mch_lineedit_read(struct mch_lineedit *edit, lua_State *L, const char *prompt) {
  (void)edit;
  (void)L;
  (void)prompt;
  return MCH_TYPED_END;
}

void mch_lineedit_remember(struct mch_lineedit *edit, const char *chunk) {
  (void)edit;
  (void)chunk;
}

unsigned mch_lineedit_columns(const struct mch_lineedit *edit) {
  (void)edit;
  return 80;
}

void mch_lineedit_free(struct mch_lineedit *edit) {
  (void)edit;
}

#endif
