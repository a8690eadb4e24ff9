# cmake -D FROM=<folder of *.lua> -D TO=<C file> [-D PREFIX=mantichora] [-D FIND=mch_embedded_find]
#       [-D REFERENCE=<LDoc's config.ld>] [-D "AND=<one more file>"] [-D WHOLE=ON] -P embed.cmake
#
# Writes the Lua files as constant bytes: FROM/logging.lua becomes "mantichora.logging". The table
# ends with an entry without a name, and is searched by a function as in bindings/embedded.h. Before
# FROM/help.lua stands what reference.cmake reads. WHOLE: all files of FROM, of any kind, under
# their whole names: FROM/page.css becomes "web/page.css" if PREFIX is web.
if(NOT PREFIX)
  set(PREFIX mantichora)
  set(FIND mch_embedded_find)
endif()
if(WHOLE)
  file(GLOB parts LIST_DIRECTORIES false ${FROM}/*)
else()
  file(GLOB parts ${FROM}/*.lua)
endif()
list(APPEND parts ${AND})
list(SORT parts)
set(arrays "")
set(rows "")
foreach(part IN LISTS parts)
  if(WHOLE)
    get_filename_component(file ${part} NAME)
    string(MAKE_C_IDENTIFIER ${file} name)
    set(called "${PREFIX}/${file}")
  else()
    get_filename_component(name ${part} NAME_WE)
    set(called "${PREFIX}.${name}")
  endif()
  file(READ ${part} bytes HEX)
  if(REFERENCE AND name STREQUAL help)
    include(${CMAKE_CURRENT_LIST_DIR}/reference.cmake)
    mch_read_reference(reference ${REFERENCE})
    string(HEX "${reference}" reference)
    string(PREPEND bytes "${reference}")
  endif()
  string(LENGTH "${bytes}" digits)
  math(EXPR length "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REPEAT "0x..," 16 line)
  string(REGEX REPLACE "(${line})" "\\1\n  " bytes "${bytes}")
  # A closing zero keeps an empty file legal C; it is not counted.
  string(APPEND arrays "static const unsigned char part_${name}[] = {\n  ${bytes}0};\n\n")
  string(APPEND rows
    "    {\"${called}\", \"@${PREFIX}/${name}.lua\", part_${name}, ${length}},\n")
endforeach()
file(WRITE ${TO}.new "/* Written by runtime/embed.cmake. Runs in: both. */
#include \"bindings/embedded.h\"

#include <string.h>

${arrays}static const struct mch_embedded parts[] = {
${rows}    {NULL, NULL, NULL, 0},
};

const struct mch_embedded *${FIND}(const char *name);

const struct mch_embedded *${FIND}(const char *name) {
  const struct mch_embedded *part = parts;
  while (part->name != NULL && strcmp(part->name, name) != 0)
    part++;
  return part->name != NULL ? part : NULL;
}
")
file(RENAME ${TO}.new ${TO})
