# Runs at the end of an installation, with mantichora_libdir: where the library was put below the prefix.
#
# Programs that are linked by pkg-config or find_package get a run path. It is taken out here where the
# loader finds the library without, in a staged installation (DESTDIR), and by package.cmake.
if(IS_ABSOLUTE "${mantichora_libdir}")
  set(mantichora_folder "${mantichora_libdir}")
else()
  get_filename_component(mantichora_folder "${CMAKE_INSTALL_PREFIX}/${mantichora_libdir}" ABSOLUTE)
endif()
if(NOT "$ENV{DESTDIR}" STREQUAL "" OR mantichora_is_packed OR
   mantichora_folder MATCHES "^(/usr)?/lib(32|64|x32)?(/[^/]*-linux-[^/]*)?$")
  foreach(mantichora_file pkgconfig/mantichora.pc cmake/mantichora/mantichora-config.cmake)
    set(mantichora_file "$ENV{DESTDIR}${mantichora_folder}/${mantichora_file}")
    file(READ "${mantichora_file}" mantichora_text)
    string(REPLACE " -Wl,-rpath,\${libdir}" "" mantichora_text "${mantichora_text}")
    string(REGEX REPLACE "# Programs find[^\n]*\n[^\n]*\n[^\n]*-rpath,[^\n]*\n" "" mantichora_text
      "${mantichora_text}")
    file(WRITE "${mantichora_file}" "${mantichora_text}")
  endforeach()
endif()
