# Finds what the journal is made with, SQLite and libsodium, and makes two targets of them where both
# are there: mantichora_journal_libraries for the module, which leaves them to the loader, and
# mantichora_journal_archives for the program, which prefers their archives so that it runs on
# machines that have neither. It does not show their symbols to C modules, which may bring other
# versions. MANTICHORA_HAS_JOURNAL says whether they are there.
option(MANTICHORA_JOURNAL "Make the journal, if SQLite and libsodium are there" ON)
find_path(MANTICHORA_SQLITE_INCLUDE_DIR sqlite3.h)
find_path(MANTICHORA_SODIUM_INCLUDE_DIR sodium.h)
foreach(name sqlite3 sodium)
  find_library(MANTICHORA_LIBRARY_${name} NAMES ${name})
  find_library(MANTICHORA_ARCHIVE_${name} NAMES lib${name}.a)
  mark_as_advanced(MANTICHORA_LIBRARY_${name} MANTICHORA_ARCHIVE_${name})
endforeach()
mark_as_advanced(MANTICHORA_SQLITE_INCLUDE_DIR MANTICHORA_SODIUM_INCLUDE_DIR)
set(MANTICHORA_HAS_JOURNAL OFF)
if(MANTICHORA_JOURNAL AND MANTICHORA_SQLITE_INCLUDE_DIR AND MANTICHORA_SODIUM_INCLUDE_DIR
   AND MANTICHORA_LIBRARY_sqlite3 AND MANTICHORA_LIBRARY_sodium)
  set(MANTICHORA_HAS_JOURNAL ON)
  add_library(mantichora_journal_libraries INTERFACE)
  add_library(mantichora_journal_archives INTERFACE)
  foreach(target mantichora_journal_libraries mantichora_journal_archives)
    target_compile_definitions(${target} INTERFACE MANTICHORA_JOURNAL)
    target_include_directories(${target} SYSTEM INTERFACE
      ${MANTICHORA_SQLITE_INCLUDE_DIR} ${MANTICHORA_SODIUM_INCLUDE_DIR})
  endforeach()
  target_link_libraries(mantichora_journal_libraries INTERFACE
    ${MANTICHORA_LIBRARY_sqlite3} ${MANTICHORA_LIBRARY_sodium})
  if(MANTICHORA_ARCHIVE_sqlite3 AND MANTICHORA_ARCHIVE_sodium AND NOT MANTICHORA_PREFER_SHARED)
    target_link_libraries(mantichora_journal_archives INTERFACE
      ${MANTICHORA_ARCHIVE_sqlite3} ${MANTICHORA_ARCHIVE_sodium} m ${CMAKE_DL_LIBS})
    target_link_options(mantichora_journal_archives INTERFACE LINKER:--exclude-libs,libsqlite3.a:libsodium.a)
  else()
    target_link_libraries(mantichora_journal_archives INTERFACE
      ${MANTICHORA_LIBRARY_sqlite3} ${MANTICHORA_LIBRARY_sodium})
  endif()
else()
  message(STATUS "No SQLite or no libsodium: there will be no journal")
endif()
