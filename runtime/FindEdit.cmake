# Finds libedit (the BSD one, histedit.h), for the prompt of the host, and makes the target
# mantichora_edit of it; an empty target where it is missing. Its archive is preferred, with those
# that it needs on Debian: so the program runs on machines that have no libedit. It does not show
# their symbols to C modules, which may bring other versions of these libraries.
add_library(mantichora_edit INTERFACE)
find_path(MANTICHORA_HISTEDIT_DIR histedit.h)
find_library(MANTICHORA_EDIT NAMES edit)
foreach(name edit tinfo bsd md)
  find_library(MANTICHORA_ARCHIVE_${name} NAMES lib${name}.a)
  list(APPEND archives ${MANTICHORA_ARCHIVE_${name}})
  mark_as_advanced(MANTICHORA_ARCHIVE_${name})
endforeach()
if(archives MATCHES NOTFOUND)
  set(archives ${MANTICHORA_EDIT})
else()
  target_link_options(mantichora_edit INTERFACE
    LINKER:--exclude-libs,libedit.a:libtinfo.a:libbsd.a:libmd.a)
endif()
if(MANTICHORA_HISTEDIT_DIR AND archives)
  target_compile_definitions(mantichora_edit INTERFACE MANTICHORA_LIBEDIT)
  target_include_directories(mantichora_edit SYSTEM INTERFACE ${MANTICHORA_HISTEDIT_DIR})
  target_link_libraries(mantichora_edit INTERFACE ${archives})
else()
  message(STATUS "libedit was not found: the prompt of the host will have no line editing")
endif()
