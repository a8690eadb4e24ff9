# Run by cpack, before it packs what was installed: what Debian wants otherwise than `cmake --install`
# leaves it.
set(share ${CPACK_TEMPORARY_INSTALL_DIRECTORY}${CPACK_PACKAGING_INSTALL_PREFIX}/share)
set(doc ${share}/doc/${CPACK_PACKAGE_NAME})
set(version ${CPACK_PACKAGE_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})
string(TIMESTAMP now "%a, %d %b %Y %H:%M:%S +0000" UTC) # of SOURCE_DATE_EPOCH if that is set

file(RENAME ${doc}/LICENSE ${doc}/copyright)
file(RENAME ${doc}/CHANGELOG.md ${doc}/changelog)
file(WRITE ${doc}/changelog.Debian "${CPACK_PACKAGE_NAME} (${version}) unstable; urgency=medium

  * Packed by cpack. The changes are in changelog.gz.

 -- ${CPACK_PACKAGE_CONTACT}  ${now}
")
file(GLOB pages ${share}/man/man*/*.[1-9])
execute_process(COMMAND gzip -9nf ${doc}/changelog ${doc}/changelog.Debian ${pages}
  COMMAND_ERROR_IS_FATAL ANY)

file(GLOB_RECURSE mantichora_libdir ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/mantichora.pc)
get_filename_component(mantichora_libdir ${mantichora_libdir} DIRECTORY)
get_filename_component(mantichora_libdir ${mantichora_libdir} DIRECTORY)
set(mantichora_is_packed ON)
unset(ENV{DESTDIR})
include(${CMAKE_CURRENT_LIST_DIR}/runpath.cmake)

file(GLOB_RECURSE archives ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/*.a)
execute_process(COMMAND strip --strip-debug ${archives} COMMAND_ERROR_IS_FATAL ANY)

file(WRITE ${share}/lintian/overrides/${CPACK_PACKAGE_NAME} "\
# The program, the module, the library and what compiling against it needs are one small package.
mantichora: link-to-shared-library-in-wrong-package
mantichora: package-name-doesnt-match-sonames
# What the program edits lines with is inside, so that it works when it is copied alone.
mantichora: embedded-library
# cpack calls ldconfig whenever a library is packed, beside the trigger that we ask for.
mantichora: maintscript-calls-ldconfig
")
