# cmake -D FROM=<scripts/web> -D TO=<C file> -P report.cmake
#
# Puts the page of a report together: report/report.html with the files that it names as @file@ in it,
# cut where @data@ stands, as the bytes that runtime/watch/page.h declares.
file(READ ${FROM}/report/report.html page)
foreach(file common.css timeline.js report/report.css report/report.js)
  file(READ ${FROM}/${file} text)
  if(text MATCHES "</script|</style")
    message(FATAL_ERROR "${file} has the end of its own element in it")
  endif()
  get_filename_component(name ${file} NAME)
  string(FIND "${page}" "@${name}@" at)
  string(LENGTH "@${name}@" length)
  math(EXPR behind "${at} + ${length}")
  string(SUBSTRING "${page}" 0 ${at} before)
  string(SUBSTRING "${page}" ${behind} -1 after)
  set(page "${before}${text}${after}")
endforeach()

function(put_bytes name text)
  string(LENGTH "${text}" length)
  string(HEX "${text}" bytes)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REPEAT "0x..," 16 line)
  string(REGEX REPLACE "(${line})" "\\1\n  " bytes "${bytes}")
  file(APPEND ${TO}.new "
const unsigned char mch_page_${name}[] = {\n  ${bytes}0};
const size_t mch_page_${name}_length = ${length};
")
endfunction()

string(FIND "${page}" "@data@" at)
string(SUBSTRING "${page}" 0 ${at} head)
math(EXPR behind "${at} + 6")
string(SUBSTRING "${page}" ${behind} -1 tail)
file(WRITE ${TO}.new "/* Written by runtime/report.cmake. Runs in: parent. */
#include \"runtime/watch/page.h\"
")
put_bytes(head "${head}")
put_bytes(tail "${tail}")
file(RENAME ${TO}.new ${TO})
