# Finds Lua 5.4, else 5.5, and makes the target mantichora_lua (headers and library). Used by our build,
# and by the programs that link libmantichora. Sets MANTICHORA_LUA (5.4 or 5.5), MANTICHORA_LUA_MODULE
# (its name for pkg-config, if that knows it) and MANTICHORA_LUA_INCLUDE_DIRS.
#
# Who wants one of the two sets MANTICHORA_LUA_VERSION; whose Lua lies elsewhere, or is cross compiled,
# MANTICHORA_LUA_INCLUDE_DIRS and MANTICHORA_LUA_LIBRARIES.

# The version of the lua.h in a folder: 5.5 writes numbers where 5.4 writes strings.
function(mantichora_version_of folder result)
  set(${result} "" PARENT_SCOPE)
  if(EXISTS ${folder}/lua.h)
    file(STRINGS ${folder}/lua.h lines REGEX "^#define[ \t]+LUA_VERSION_(MAJOR|MINOR)(_N)?[ \t]+\"?[0-9]+\"?")
    string(REGEX REPLACE "[^;]*LUA_VERSION_M[A-Z_]*[ \t]+\"?([0-9]+)[^;]*" "\\1" lines "${lines}")
    string(REPLACE ";" "." lines "${lines}")
    set(${result} "${lines}" PARENT_SCOPE)
  endif()
endfunction()

# The same names in all distributions: lua5.4, lua-5.4 or lua54. Where there is no pkg-config, or it
# knows of none: below the usual prefixes.
macro(mantichora_find_lua version)
  string(REPLACE "." "" short ${version})
  string(REGEX REPLACE "^5\\." "" minor ${version})
  math(EXPR next "${minor} + 1")
  find_package(PkgConfig QUIET)
  if(PKG_CONFIG_FOUND)
    pkg_search_module(MANTICHORA_LUA_PC_${short} QUIET IMPORTED_TARGET GLOBAL
      lua${version} lua-${version} lua${short} "lua>=${version} lua<5.${next}")
  endif()
  if(MANTICHORA_LUA_PC_${short}_FOUND)
    set(MANTICHORA_LUA ${version})
    set(MANTICHORA_LUA_MODULE ${MANTICHORA_LUA_PC_${short}_MODULE_NAME})
    get_target_property(MANTICHORA_LUA_INCLUDE_DIRS
      PkgConfig::MANTICHORA_LUA_PC_${short} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT MANTICHORA_LUA_INCLUDE_DIRS) # a folder that compilers search by themselves
      set(MANTICHORA_LUA_INCLUDE_DIRS ${MANTICHORA_LUA_PC_${short}_INCLUDEDIR})
    endif()
    set(MANTICHORA_LUA_LIBRARIES PkgConfig::MANTICHORA_LUA_PC_${short})
  else()
    find_path(MANTICHORA_LUA_H_${short} lua.h
      PATH_SUFFIXES lua${version} lua-${version} lua${short} include/lua${version} include/lua-${version} include)
    find_library(MANTICHORA_LUA_A_${short} NAMES lua${version} lua-${version} lua${short} lua.${version} lua)
    find_library(MANTICHORA_LIBM m)
    mark_as_advanced(MANTICHORA_LUA_H_${short} MANTICHORA_LUA_A_${short} MANTICHORA_LIBM)
    mantichora_version_of("${MANTICHORA_LUA_H_${short}}" found)
    if(found STREQUAL ${version} AND MANTICHORA_LUA_A_${short})
      set(MANTICHORA_LUA ${version})
      set(MANTICHORA_LUA_INCLUDE_DIRS ${MANTICHORA_LUA_H_${short}})
      set(MANTICHORA_LUA_LIBRARIES ${MANTICHORA_LUA_A_${short}} ${CMAKE_DL_LIBS})
      if(MANTICHORA_LIBM)
        list(APPEND MANTICHORA_LUA_LIBRARIES ${MANTICHORA_LIBM})
      endif()
    endif()
  endif()
endmacro()

if(NOT TARGET mantichora_lua)
  if(MANTICHORA_LUA_VERSION AND NOT MANTICHORA_LUA_VERSION MATCHES "^5\\.[45]$")
    message(FATAL_ERROR
      "mantichora works with Lua 5.4 and 5.5: MANTICHORA_LUA_VERSION is ${MANTICHORA_LUA_VERSION}")
  endif()
  if(MANTICHORA_LUA_INCLUDE_DIRS) # given
    list(GET MANTICHORA_LUA_INCLUDE_DIRS 0 first)
    mantichora_version_of(${first} MANTICHORA_LUA)
    if(NOT MANTICHORA_LUA MATCHES "^5\\.[45]$" OR
       (MANTICHORA_LUA_VERSION AND NOT MANTICHORA_LUA STREQUAL MANTICHORA_LUA_VERSION))
      message(FATAL_ERROR "mantichora needs Lua ${MANTICHORA_LUA_VERSION} (5.4 or 5.5), and "
        "MANTICHORA_LUA_INCLUDE_DIRS, ${first}, has ${MANTICHORA_LUA}")
    endif()
  elseif(MANTICHORA_LUA_VERSION)
    mantichora_find_lua(${MANTICHORA_LUA_VERSION})
  else()
    mantichora_find_lua(5.4)
    if(NOT MANTICHORA_LUA)
      mantichora_find_lua(5.5)
    endif()
  endif()
  if(NOT MANTICHORA_LUA)
    message(FATAL_ERROR "mantichora needs Lua ${MANTICHORA_LUA_VERSION} (5.4 or 5.5) with its headers: install "
      "it (Debian: liblua5.4-dev), or say where it is by MANTICHORA_LUA_INCLUDE_DIRS and MANTICHORA_LUA_LIBRARIES")
  endif()
  # For all folders of a build, that of a program which adds ours included.
  add_library(mantichora_lua INTERFACE IMPORTED GLOBAL)
  target_include_directories(mantichora_lua SYSTEM INTERFACE ${MANTICHORA_LUA_INCLUDE_DIRS})
  target_link_libraries(mantichora_lua INTERFACE ${MANTICHORA_LUA_LIBRARIES})
endif()
