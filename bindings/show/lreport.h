/* Runs in: both.
 *
 * What scripts/mantichora/logging.lua needs of the runtime: the internal module
 * "mantichora.report". */
#ifndef MCH_LREPORT_H
#define MCH_LREPORT_H

#include "runtime/mantichora.h" /* declares luaopen_mantichora_report */

#endif
