# Whoever submits this names the place of the release in URLS, and its checksum in SHA512.
vcpkg_download_distfile(archive
  URLS "https://packages.example.org/mantichora/mantichora-${VERSION}.tar.gz"
  FILENAME "mantichora-${VERSION}.tar.gz"
  SHA512 0)
vcpkg_extract_source_archive(source ARCHIVE "${archive}")
vcpkg_cmake_configure(SOURCE_PATH "${source}"
  OPTIONS
    -DMANTICHORA_EDIT=OFF -DMANTICHORA_YAJL=OFF -DMANTICHORA_JOURNAL=OFF -DMANTICHORA_WEB=OFF
    -DMANTICHORA_AMQP=OFF -DMANTICHORA_EXAMPLES=OFF
    "-DMANTICHORA_LUA_INCLUDE_DIRS=${CURRENT_INSTALLED_DIR}/include"
  OPTIONS_RELEASE
    "-DMANTICHORA_LUA_LIBRARIES=${CURRENT_INSTALLED_DIR}/lib/liblua.a;m;${CMAKE_DL_LIBS}"
  OPTIONS_DEBUG
    "-DMANTICHORA_LUA_LIBRARIES=${CURRENT_INSTALLED_DIR}/debug/lib/liblua.a;m;${CMAKE_DL_LIBS}")
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/mantichora)
vcpkg_fixup_pkgconfig()
vcpkg_copy_tools(TOOL_NAMES mantichora AUTO_CLEAN)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
vcpkg_install_copyright(FILE_LIST "${source}/LICENSE")
