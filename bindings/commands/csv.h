/* Runs in: both.
 *
 * CSV as RFC 4180 has it: fields with commas, quotes or line ends stand in quotes, a quote in them
 * is doubled; lines end in LF or CR LF. Nothing else is let through. */
#ifndef MCH_CSV_H
#define MCH_CSV_H

#include "bindings/commands/text.h"

/* Push the list of the record's fields: 1. Or push nothing: 0, *column (from 1, in bytes) and
 * *message say what is wrong. */
int mch_csv_read(lua_State *L, const char *record, size_t length, size_t *column,
                 const char **message);

/* Append a field, in quotes where it needs them. */
void mch_csv_write(lua_State *L, const char *field, size_t length, struct mch_text *text);

#endif
