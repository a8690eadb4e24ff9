# Finds libmicrohttpd, by which `mantichora top --web` serves its page, and makes the target
# mantichora_microhttpd of it; an empty target where it is missing. Only its header is used here: the program
# loads the library by the name in MANTICHORA_MICROHTTPD when it is to serve a page, so that it runs, as
# quickly as ever, on machines that do not have it.
option(MANTICHORA_WEB "Build the page of `mantichora top --web`, if libmicrohttpd is there" ON)
add_library(mantichora_microhttpd INTERFACE)
find_path(MANTICHORA_MICROHTTPD_INCLUDE_DIR microhttpd.h)
find_library(MANTICHORA_MICROHTTPD_LIBRARY NAMES microhttpd)
mark_as_advanced(MANTICHORA_MICROHTTPD_INCLUDE_DIR MANTICHORA_MICROHTTPD_LIBRARY)
if(MANTICHORA_WEB AND MANTICHORA_MICROHTTPD_INCLUDE_DIR AND MANTICHORA_MICROHTTPD_LIBRARY)
  # libmicrohttpd.so is a link to libmicrohttpd.so.12.61.2, which is loaded as libmicrohttpd.so.12.
  get_filename_component(microhttpd "${MANTICHORA_MICROHTTPD_LIBRARY}" REALPATH)
  get_filename_component(microhttpd "${microhttpd}" NAME)
  if(microhttpd MATCHES "^(libmicrohttpd\\.so\\.[0-9]+)")
    set(microhttpd "${CMAKE_MATCH_1}")
  elseif(microhttpd MATCHES "\\.a$")
    set(microhttpd "libmicrohttpd${CMAKE_SHARED_LIBRARY_SUFFIX}")
  endif()
  target_compile_definitions(mantichora_microhttpd INTERFACE MANTICHORA_MICROHTTPD="${microhttpd}")
  target_include_directories(mantichora_microhttpd SYSTEM INTERFACE ${MANTICHORA_MICROHTTPD_INCLUDE_DIR})
  target_link_libraries(mantichora_microhttpd INTERFACE ${CMAKE_DL_LIBS})
else()
  message(STATUS "No libmicrohttpd: the program will serve no page (top --web)")
endif()
