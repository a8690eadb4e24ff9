# Whoever submits this names the place of the release in URLS, and its checksum in SHA512.
vcpkg_download_distfile(archive
  URLS "https://packages.example.org/mantichora/mantichora-${VERSION}.tar.gz"
  FILENAME "mantichora-${VERSION}.tar.gz"
  SHA512 0)
vcpkg_extract_source_archive(source ARCHIVE "${archive}")
# The port `lua` has no file for pkg-config, and its library is what the triplet says.
if(VCPKG_LIBRARY_LINKAGE STREQUAL "dynamic")
  set(lua "${VCPKG_TARGET_SHARED_LIBRARY_PREFIX}lua${VCPKG_TARGET_SHARED_LIBRARY_SUFFIX}")
else()
  set(lua "${VCPKG_TARGET_STATIC_LIBRARY_PREFIX}lua${VCPKG_TARGET_STATIC_LIBRARY_SUFFIX}")
endif()
set(system "m")
if(NOT VCPKG_TARGET_IS_BSD)
  string(APPEND system ";dl")
endif()
vcpkg_cmake_configure(SOURCE_PATH "${source}"
  OPTIONS
    -DMANTICHORA_EDIT=OFF -DMANTICHORA_YAJL=OFF -DMANTICHORA_JOURNAL=OFF -DMANTICHORA_WEB=OFF
    -DMANTICHORA_AMQP=OFF -DMANTICHORA_EXAMPLES=OFF
    "-DMANTICHORA_LUA_INCLUDE_DIRS=${CURRENT_INSTALLED_DIR}/include"
  OPTIONS_RELEASE
    "-DMANTICHORA_LUA_LIBRARIES=${CURRENT_INSTALLED_DIR}/lib/${lua};${system}"
  OPTIONS_DEBUG
    "-DMANTICHORA_LUA_LIBRARIES=${CURRENT_INSTALLED_DIR}/debug/lib/${lua};${system}")
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/mantichora)
vcpkg_fixup_pkgconfig()
vcpkg_copy_tools(TOOL_NAMES mantichora AUTO_CLEAN)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
vcpkg_install_copyright(FILE_LIST "${source}/LICENSE")
