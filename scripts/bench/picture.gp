# How many times better than a limit of the machine, and than Python: bars from 1, to the right if better.
#     gnuplot -c picture.gp speed.tsv speed.svg

set terminal svg size 800,560 font "Helvetica,Arial,sans-serif,13" background "#ffffff"
set output ARG2
set datafile separator "\t"
set datafile missing "?"

rows = int(system(sprintf("wc -l < '%s'", ARG1)))
set yrange [rows - 0.4 : -0.6]
set logscale x 10
set xrange [0.04 : 110]
set xtics ("1/20" 0.05, "1/10" 0.1, "1/5" 0.2, "1/2" 0.5, "=" 1, "2" 2, "5" 5, "10" 10, "20" 20, "50" 50, "100" 100)
set label 1 "worse  ←" at first 0.95, screen 0.965 right textcolor "#555555"
set label 2 "→  times better" at first 1.05, screen 0.965 left textcolor "#555555"
set tmargin 2.5
set tics scale 0
set border 0
set grid xtics lc "#e4e4e4" lt 1
set arrow from 1, -0.6 to 1, rows - 0.4 nohead lc "#555555" lw 1.5 front
set key bottom center outside vertical maxrows 2 Left reverse samplen 1 spacing 1.2
set style fill solid noborder
set lmargin 30

# Each bar's number stands at its end. (By "set label": a plot of labels without a point crashes.)
shown(times) = times >= 9.95 ? sprintf("%.0f", times) : times >= 0.995 ? sprintf("%.1f", times) : sprintf("%.2f", times)
end(times) = times > 100 ? 100 : times < 0.05 ? 0.05 : times
do for [side = 2 : 3] {
  numbers = system(sprintf("cut -f%d '%s'", side, ARG1))
  do for [i = 1 : rows] {
    if (word(numbers, i) ne "?") {
      times = real(word(numbers, i))
      place = times >= 1 ? end(times) * 1.05 : end(times) / 1.05
      height = i - 1 + (side == 2 ? 0.19 : -0.19)
      if (times >= 1) { set label shown(times) at place, height left font ",11" }
      if (times < 1) { set label shown(times) at place, height right font ",11" }
    }
  }
}

plot ARG1 using (end($3)):0:(1.0):(end($3)):($0 - 0.36):($0 - 0.02):ytic(1) with boxxyerror lc "#4c78a8" \
       title "than Python's multiprocessing.Pool (for the bar: than tqdm)", \
     "" using (end($2)):0:(1.0):(end($2)):($0 + 0.02):($0 + 0.36) with boxxyerror lc "#f2a541" \
       title "than what the machine can do at best, measured in C or computed"
