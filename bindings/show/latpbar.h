/* Runs in: both. The module `mantichora.atpbar`. */
#ifndef MCH_LATPBAR_H
#define MCH_LATPBAR_H

#include "runtime/mantichora.h" /* declares luaopen_mantichora_atpbar */

#endif
