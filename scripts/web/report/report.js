// The page of a report, drawn from the JSON in #data, which runtime/watch/page.c writes: its lists are
// arrays without keys, in the orders named below. All text goes in as text.
"use strict";

(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rowsAtOnce = 200;
  const timeline = MantichoraTimeline;

  function at(id) { return document.getElementById(id); }

  function make(parent, tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }

  // -- words --------------------------------------------------------------------------------------

  function span(seconds) { return seconds === null ? "" : seconds === 0 ? "0 s" : timeline.formatSpan(seconds); }

  function count(number) { return number.toLocaleString("en").replace(/,/g, "\u202f"); }

  function bytes(number) {
    if (number === null || number === 0) return "";
    if (number < 2 ** 20) return Math.round(number / 1024) + " KiB";
    if (number < 2 ** 30) return (number / 2 ** 20).toFixed(1) + " MiB";
    return (number / 2 ** 30).toFixed(2) + " GiB";
  }

  function percent(share) { return Math.round(share * 100) + " %"; }

  function date(seconds) {
    const d = new Date(seconds * 1000);
    function two(number) { return String(number).padStart(2, "0"); }
    return d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate()) + " " +
      two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds());
  }

  function plural(number, word) { return count(number) + " " + word + (number === 1 ? "" : "s"); }

  // -- head and figures ---------------------------------------------------------------------------

  function drawHead() {
    document.title = data.script + " – report";
    at("title").textContent = data.script;
    at("when").textContent = "begun " + date(data.begin) + ", process " + data.pid + ", mantichora " + data.version +
      "; written " + date(data.written) + ", " + (data.now > 0 ? span(data.now) : "0 s") + " after that";
    if (data.over) return;
    at("state").hidden = false;
    at("state").textContent = "This was written while the script ran. What happened later is not in it.";
  }

  function figure(name, text, kind) {
    const box = make(at("figures"), "div");
    if (kind) box.style.borderLeftColor = "var(--kind-" + kind + ")";
    make(box, "dt", "", name);
    make(box, "dd", "", text);
  }

  // Slots of the script's own pools.
  const slots = data.lanes.filter(function (lane) { return lane[3] === 0; });

  function shareOfLane(lane) { // [name, from, worked, 1: of a pool inside of a task]
    const length = data.now - lane[1];
    return length > 0 ? Math.min(1, lane[2] / length) : 0;
  }

  function drawFigures() {
    figure("tasks", count(data.accepted));
    for (const kind of timeline.kinds)
      if (kind !== "running" && (data.counts[kind] > 0 || kind === "ok")) figure(kind, count(data.counts[kind]), kind);
    if (data.retried > 0) figure("retried", count(data.retried));
    if (data.running > 0) figure("running", count(data.running), "running");
    if (data.queued > 0) figure("queued", count(data.queued));
    figure("time", span(data.now));
    figure("work", span(data.worked));
    if (data.timed > 0) figure("a task, mean", span(data.worked / data.timed));
    if (data.waits > 0) figure("waited, mean", span(data.waited / data.waits));
    if (data.nested > 0) figure("inside of tasks", count(data.nested));
    if (slots.length === 0) return;
    const mean = slots.reduce(function (sum, lane) { return sum + shareOfLane(lane); }, 0) / slots.length;
    figure("utilisation", percent(mean));
  }

  function drawSlots() {
    at("slots-section").hidden = slots.length === 0;
    for (const lane of slots) {
      const line = make(at("slots"), "div", "slot");
      const name = make(line, "span", "slot-name", lane[0]);
      name.title = lane[0];
      const track = make(line, "span", "slot-track"), fill = make(track, "div", "slot-fill");
      fill.style.width = percent(shareOfLane(lane)).replace(" ", "");
      make(line, "span", "slot-share", percent(shareOfLane(lane)));
    }
  }

  // -- timeline -----------------------------------------------------------------------------------

  function laneName(number) { return data.lanes[number] ? data.lanes[number][0] : ""; }

  // [lane, start, length, kind, name, run ID, count, busy]
  function boxOf(list) {
    const box = {
      row: list[0], start: list[1], stop: list[2] === null ? null : list[1] + list[2], kind: list[3],
      name: list[4] || (list[5] !== null ? "task " + list[5] : ""), runid: list[5], key: list[0] + ":" + list[1],
    };
    if (list.length > 6) {
      box.count = list[6];
      box.busy = list[7];
    }
    return box;
  }

  // [run ID, name, kind, lane, start, elapsed, waited, cpu, maxrss, attempt, index or 0]
  const rows = data.rows.map(function (list) {
    return {
      runid: list[0], name: list[1] || "task " + list[0], kind: list[2], lane: list[3], slot: laneName(list[3]),
      start: list[4], elapsed: list[5], waited: list[6], cpu: list[7], maxrss: list[8], attempt: list[9],
      index: list[10], key: list[3] + ":" + list[4],
    };
  });
  const rowByKey = new Map(rows.map(function (row) { return [row.key, row]; }));

  // [number, run ID, at, kind, name, report]
  const failures = data.failures.map(function (list) {
    return { number: list[0], runid: list[1], at: list[2], kind: list[3], name: list[4] || "task " + list[1], report: list[5] };
  }).sort(function (a, b) { return a.number - b.number; });

  function fact(list, name, text) {
    if (text === "" || text === null) return;
    const pair = make(list, "div");
    make(pair, "dt", "", name);
    make(pair, "dd", "", text);
  }

  function tellMany(list, box) {
    fact(list, "tasks", count(box.count));
    fact(list, "work", span(box.busy));
    fact(list, "in", span(box.stop - box.start));
  }

  function tellOne(list, box, row) {
    fact(list, "run ID", count(box.runid));
    fact(list, "kind", box.kind);
    fact(list, "ran", box.stop === null ? "still running" : span(box.stop - box.start));
    if (!row) return;
    fact(list, "item", row.index > 0 ? count(row.index) : "");
    fact(list, "attempt", row.attempt > 1 ? count(row.attempt) : "");
    fact(list, "waited", span(row.waited));
    fact(list, "processor", span(row.cpu));
    fact(list, "memory", bytes(row.maxrss));
  }

  function show(box) {
    const place = at("chosen");
    place.textContent = "";
    place.hidden = false;
    make(place, "h3", "", box.count > 1 ? plural(box.count, "task") : box.name);
    const list = make(place, "dl");
    fact(list, "slot", laneName(box.row));
    fact(list, "began at", timeline.formatTime(box.start, 0.001));
    if (box.count > 1) tellMany(list, box);
    else tellOne(list, box, rowByKey.get(box.key));
    const failure = failures.find(function (one) {
      return one.runid === box.runid && one.kind === box.kind && one.name === box.name;
    });
    if (failure && failure.report) make(place, "pre", "", failure.report);
  }

  let line = null;

  function drawTimeline() {
    line = timeline.create(at("timeline"), { label: "Tasks by slot", onpick: show, height: 440 });
    line.setRows(data.lanes.map(function (lane, number) { return { id: number, name: lane[0] }; }));
    line.setBoxes(data.boxes.map(boxOf));
    const first = data.lanes.reduce(function (from, lane) { return lane[1] > 0 ? Math.min(from, lane[1]) : from; }, data.now);
    const last = data.boxes.reduce(function (to, list) { return Math.max(to, list[1] + (list[2] || 0)); }, 0);
    line.setRange(Math.min(first, data.now), data.over && last > 0 ? last : data.now);
    line.setNow(data.now);
    line.setMarks(data.deaths.map(function (death) { return { at: death[0], row: death[1] }; })); // [at, lane, worker, why]
    timeline.legend(at("legend"), timeline.kinds.filter(function (kind) {
      return kind === "ok" || data.boxes.some(function (list) { return list[3] === kind; });
    }));
    if (data.grain === 0) return;
    at("grain").hidden = false;
    at("grain").textContent = "There were too many tasks for a box each: those that lay within " + span(data.grain) +
      " of one another share one.";
  }

  // -- curves -------------------------------------------------------------------------------------

  function path(svg, name, points, top) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const from = points[0][0], length = Math.max(1e-9, points[points.length - 1][0] - from);
    element.setAttribute("class", name);
    element.setAttribute("d", points.map(function (point, i) {
      return (i === 0 ? "M" : "L") + ((point[0] - from) / length * 1000).toFixed(1) + " " +
        (98 - point[1] / Math.max(1, top) * 94).toFixed(2);
    }).join(""));
    svg.appendChild(element);
  }

  // Two columns of [at, queued, running, bytes of the script, of its workers].
  function curve(title, words, columns, show) {
    const most = columns.map(function (column) {
      return data.samples.reduce(function (top, sample) { return Math.max(top, sample[column]); }, 0);
    });
    const box = make(at("curves"), "figure", "curve"), caption = make(box, "figcaption", "", title + ", at most");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 1000 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title + ": " + words.map(function (word, i) {
      return word + " at most " + (show(most[i]) || "0");
    }).join(", "));
    for (let i = 0; i < 2; i++) {
      const name = i === 0 ? "first" : "second";
      const points = data.samples.map(function (sample) { return [sample[0], sample[columns[i]]]; });
      path(svg, name, points, Math.max(most[0], most[1]));
      make(caption, "span", "key-" + name, words[i] + " " + (show(most[i]) || "0"));
    }
    box.appendChild(svg);
  }

  function drawCurves() {
    at("curves-section").hidden = data.samples.length < 3; // two are no curve
    if (data.samples.length < 3) return;
    curve("Tasks", ["queued", "running"], [1, 2], count);
    curve("Memory", ["workers", "script"], [4, 3], bytes);
  }

  // -- failures -----------------------------------------------------------------------------------

  function drawFailures() {
    if (failures.length < data.failed) {
      at("failures-note").hidden = false;
      at("failures-note").textContent = plural(data.failed, "task") + " failed. Shown are the first and the last ones, " +
        count(failures.length) + " together.";
    }
    if (failures.length === 0) make(at("failures"), "p", "faint", "No task failed.");
    for (const failure of failures) {
      const details = make(at("failures"), "details"), summary = make(details, "summary");
      make(summary, "span", "kind kind-" + failure.kind, failure.kind);
      summary.appendChild(document.createTextNode(" " + failure.name + " (task " + failure.runid + ", at " +
        timeline.formatTime(failure.at, 0.1) + ")"));
      make(details, "pre", "", failure.report || "There was no memory for its report.");
    }
  }

  // -- tables -------------------------------------------------------------------------------------

  // A table with sortable columns: { title, of(row), text(row), number, wide, make(cell, row) }.
  function sortable(table, columns, list, sorted, limit, after) {
    const head = make(make(table, "thead"), "tr"), body = make(table, "tbody");
    let by = sorted, down = true, shown = limit;
    columns.forEach(function (column) {
      const cell = make(head, "th", (column.number ? "number" : "") + (column.wide ? " wide" : ""));
      cell.scope = "col";
      column.head = cell;
      const button = make(cell, "button", "", column.title);
      button.type = "button";
      button.addEventListener("click", function () {
        down = by === column ? !down : Boolean(column.number);
        by = column;
        draw();
      });
    });

    function compare(a, b) {
      const x = by.of(a), y = by.of(b);
      if (x === y) return 0;
      if (x === null) return 1; // what is not known comes last
      if (y === null) return -1;
      return (x < y ? -1 : 1) * (down ? -1 : 1);
    }

    function drawRow(row) {
      const line = make(body, "tr");
      for (const column of columns) {
        const cell = make(line, "td", (column.number ? "number" : "") + (column.wide ? " wide" : ""));
        if (column.make) column.make(cell, row);
        else cell.textContent = column.text(row);
      }
    }

    function draw() {
      for (const column of columns) {
        if (column === by) column.head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else column.head.removeAttribute("aria-sort");
      }
      body.textContent = "";
      const wanted = after.filter ? list.filter(after.filter) : list.slice();
      wanted.sort(compare).slice(0, shown).forEach(drawRow);
      if (after.drawn) after.drawn(Math.min(shown, wanted.length), wanted.length);
    }

    draw();
    return {
      draw: draw,
      more: function () {
        shown += 5 * limit;
        draw();
      },
    };
  }

  function showRow(row) {
    const box = {
      row: row.lane, start: row.start, stop: row.start + row.elapsed, kind: row.kind, name: row.name, runid: row.runid,
      key: row.key,
    };
    show(box);
    line.focus(box, true);
    at("timeline-title").scrollIntoView({ block: "start" });
  }

  function drawTasks() {
    function text(r, name) { return String(r[name]); }
    function length(r, name) { return span(r[name]); }
    function column(title, name, show, wide) { // of numbers
      return {
        title: title, number: true, wide: wide,
        of: function (r) { return r[name]; },
        text: function (r) { return show(r, name); },
      };
    }
    const elapsed = column("ran", "elapsed", length);
    const columns = [
      column("task", "runid", text),
      {
        title: "name", of: function (r) { return r.name; }, make: function (cell, r) {
          const button = make(cell, "button", "link", r.name + (r.index > 0 ? " [" + r.index + "]" : ""));
          button.type = "button";
          button.addEventListener("click", function () { showRow(r); });
        },
      },
      {
        title: "kind", of: function (r) { return r.kind; }, make: function (cell, r) {
          make(cell, "span", "kind kind-" + r.kind, r.kind);
        },
      },
      elapsed,
      column("waited", "waited", length, true),
      column("processor", "cpu", length, true),
      column("memory", "maxrss", function (r) { return bytes(r.maxrss); }, true),
      column("began", "start", function (r) { return timeline.formatTime(r.start, 0.001); }, true),
      { title: "slot", of: function (r) { return r.slot; }, text: function (r) { return r.slot; }, wide: true },
    ];
    let wanted = "";
    const table = sortable(at("tasks"), columns, rows, elapsed, rowsAtOnce, {
      filter: function (r) { return wanted === "" || (r.name + " " + r.kind + " " + r.runid).toLowerCase().includes(wanted); },
      drawn: function (shown, all) {
        at("more").hidden = shown >= all;
        const kept = rows.length < data.timed + data.nested ? "The slowest " + count(rows.length) + " of " + plural(data.timed + data.nested, "task") +
          " that ran are kept here; sums and counts above are of all." : plural(rows.length, "task") + " ran.";
        at("tasks-note").textContent = kept + (shown < all ? " Shown: " + count(shown) + "." : "");
      },
    });
    at("more").addEventListener("click", table.more);
    at("filter").addEventListener("input", function () {
      wanted = at("filter").value.toLowerCase();
      table.draw();
    });
  }

  // [name or null: all others, tasks, failed, sum, longest]
  function drawGroups() {
    const list = data.groups.map(function (g) {
      return { name: g[0] === null ? "all others" : g[0], count: g[1], failed: g[2], sum: g[3], most: g[4], mean: g[3] / g[1] };
    });
    function of(key) { return function (g) { return g[key]; }; }
    const sum = { title: "work", of: of("sum"), text: function (g) { return span(g.sum); }, number: true };
    at("groups-section").hidden = list.length === 0;
    sortable(at("groups"), [
      { title: "function", of: of("name"), text: of("name") },
      { title: "tasks", of: of("count"), text: function (g) { return count(g.count); }, number: true },
      { title: "failed", of: of("failed"), text: function (g) { return g.failed > 0 ? count(g.failed) : ""; }, number: true },
      sum,
      { title: "mean", of: of("mean"), text: function (g) { return span(g.mean); }, number: true },
      { title: "longest", of: of("most"), text: function (g) { return span(g.most); }, number: true, wide: true },
    ], list, sum, 1000, {});
  }

  drawHead();
  drawFigures();
  drawTimeline();
  drawSlots();
  drawCurves();
  drawFailures();
  drawGroups();
  drawTasks();
  document.documentElement.dataset.drawn = "yes";
})();
