std = "lua54"
max_line_length = 120
files["spec/**/*.lua"] = { std = "lua54+busted", ignore = { "512" } } -- loops left by break are a subject
files[".busted"] = { std = "lua54" }
ignore = { "581" } -- not (x > y) is not x <= y: there is nan
