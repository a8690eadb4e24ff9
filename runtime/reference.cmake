# The comments that the manual's reference is made of, for the prompt's help().
#
# mch_read_reference(VARIABLE CONFIG): those in the files that LDoc's CONFIG names, as the text
#
#     local reference = [=====[
#     @@ a block: the lines of one comment, without what marks them as a comment
#     ]=====]
#
# In Lua a block begins with three hyphens and goes on while lines are comments; in C it stands between
# "/***" and "*/".

# Append the block that begins at the start of TEXT, the rest of the file; leave that behind it.
function(mch_read_block text_variable to_variable)
  set(text "${${text_variable}}")
  if(text MATCHES "^---")
    set(block "")
    while(text MATCHES "^---?([^\n]*)\n")
      string(APPEND block "${CMAKE_MATCH_1}\n")
      string(LENGTH "${CMAKE_MATCH_0}" length)
      string(SUBSTRING "${text}" ${length} -1 text)
    endwhile()
  else()
    string(FIND "${text}" "*/" length)
    string(SUBSTRING "${text}" 4 ${length} block)
    string(REGEX REPLACE "\\*/.*" "" block "${block}")
    string(SUBSTRING "${text}" ${length} -1 text)
  endif()
  set(${text_variable} "${text}" PARENT_SCOPE)
  set(${to_variable} "${${to_variable}}@@\n${block}" PARENT_SCOPE)
endfunction()

function(mch_read_reference to config)
  get_filename_component(folder ${config} DIRECTORY)
  file(READ ${config} text)
  string(REGEX MATCHALL "\"[^\";]+\\.(lua|c)\"" names "${text}")
  set(blocks "")
  foreach(name IN LISTS names)
    string(REPLACE "\"" "" name "${name}")
    file(READ ${folder}/${name} text)
    set(text "\n${text}\n")
    if(name MATCHES "lua$")
      set(mark "\n---")
    else()
      set(mark "\n/***")
    endif()
    string(FIND "${text}" "${mark}" at)
    while(at GREATER_EQUAL 0)
      math(EXPR at "${at} + 1")
      string(SUBSTRING "${text}" ${at} -1 text)
      # Lines of hyphens alone part the sections of a file.
      if(text MATCHES "^----")
        string(SUBSTRING "${text}" 3 -1 text)
      else()
        mch_read_block(text blocks)
        set(text "\n${text}")
      endif()
      string(FIND "${text}" "${mark}" at)
    endwhile()
  endforeach()
  set(${to} "local reference = [=====[\n${blocks}]=====]\n" PARENT_SCOPE)
endfunction()
