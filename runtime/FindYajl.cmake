# Finds yajl, by which the commands of the program read JSON, and makes the target mantichora_yajl of
# it; an empty target where it is missing. Its archive is preferred, so that the program runs on
# machines that have no yajl. It does not show its symbols to C modules, which may bring another one.
option(MANTICHORA_YAJL "Read JSON in the commands of the program, if yajl is there" ON)
add_library(mantichora_yajl INTERFACE)
find_path(MANTICHORA_YAJL_INCLUDE_DIR yajl/yajl_parse.h)
find_library(MANTICHORA_YAJL_LIBRARY NAMES libyajl_s.a libyajl.a yajl)
mark_as_advanced(MANTICHORA_YAJL_INCLUDE_DIR MANTICHORA_YAJL_LIBRARY)
if(MANTICHORA_YAJL AND MANTICHORA_YAJL_INCLUDE_DIR AND MANTICHORA_YAJL_LIBRARY)
  target_compile_definitions(mantichora_yajl INTERFACE MANTICHORA_YAJL)
  target_include_directories(mantichora_yajl SYSTEM INTERFACE ${MANTICHORA_YAJL_INCLUDE_DIR})
  target_link_libraries(mantichora_yajl INTERFACE ${MANTICHORA_YAJL_LIBRARY})
  if(MANTICHORA_YAJL_LIBRARY MATCHES "\\.a$")
    target_link_options(mantichora_yajl INTERFACE LINKER:--exclude-libs,libyajl_s.a:libyajl.a)
  endif()
else()
  message(STATUS "No yajl: the commands of the program will read no JSON")
endif()
