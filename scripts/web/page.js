// The live page of `mantichora top --web`: reads the viewer's stream of lines, keeps one picture of it, and draws
// that a few times a second. Whatever comes from the script is text, and stays text.
//
// The token comes in the address (#t=...), leaves it at once, and is kept for this tab, so that a reload goes on.
"use strict";

(function () {
  const pace = 250; // milliseconds between drawings of what moves by itself
  const mostBoxes = 30000;
  const mostLog = 500;
  const mostFailures = 200;
  const storage = "mantichora-token";

  function at(id) {
    return document.getElementById(id);
  }

  function make(parent, tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    if (parent) parent.appendChild(element);
    return element;
  }

  // Touches the document only where something is new.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // -- words --------------------------------------------------------------------------------------

  function count(n) {
    return String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }

  function amount(n) {
    return Number.isInteger(n) ? count(n) : String(Number(n.toPrecision(4)));
  }

  function scaled(n, base, units) {
    let at = 0;
    while (n >= base && at < units.length - 1) {
      n /= base;
      at++;
    }
    return (at === 0 ? Math.round(n) : n.toPrecision(n < 100 ? 3 : 4).slice(0, 4).replace(/\.$/, "")) + units[at];
  }

  function bytes(n) {
    return scaled(n, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
  }

  function span(seconds) {
    return MantichoraTimeline.formatSpan(Math.max(0, seconds));
  }

  function clockTime(time) {
    const date = new Date(time * 1000);
    return [date.getHours(), date.getMinutes(), date.getSeconds()].map(function (n) {
      return String(n).padStart(2, "0");
    }).join(":");
  }

  function quantity(bar, n) {
    if (bar.unit === "B") return scaled(n, 1000, ["", "k", "M", "G", "T"]);
    if (bar.unit === "iB") return scaled(n, 1024, ["", "Ki", "Mi", "Gi", "Ti"]);
    return amount(n);
  }

  // -- the picture --------------------------------------------------------------------------------

  const picture = {
    hello: null, now: 0, heard: 0, // the script's clock; `heard`: when it showed that, by this browser's
    offset: 0, // from that clock to seconds since 1970; the same for as long as the picture is
    pools: [], workers: [], rows: [], boxes: [], failures: [], samples: [], stats: null,
    silent: 0, gone: null, paused: false,
  };
  let charted = null; // the last sample that the curves have
  let link = "connecting"; // "open", "cut", "ended", "refused", "none"
  let stale = true;

  // The script's clock at this moment; it stands where nothing is heard.
  function scriptNow() {
    if (picture.gone || link !== "open" || !picture.hello) return picture.now;
    return picture.now + Math.min(3, (performance.now() - picture.heard) / 1000);
  }

  function wallOf(clock) {
    return picture.offset + clock;
  }

  function keyOf(pool, runid, attempt) {
    return pool + "." + runid + "." + (attempt || 1);
  }

  // The stream has short names, as there are many boxes.
  function boxOf(short) {
    const box = { row: short.r, start: wallOf(short.a), stop: wallOf(short.b), kind: short.k };
    if (short.c) {
      box.count = short.c;
      box.busy = short.w;
      box.key = short.r + "@" + short.a + short.k;
    } else {
      const pool = Number(short.r.slice(0, short.r.indexOf(".")));
      box.pool = pool;
      box.runid = short.i;
      box.name = nameOf({ name: short.t, runid: short.i, index: short.x });
      box.attempt = short.e;
      box.key = keyOf(pool, short.i, short.e);
      box.maxrss = short.m;
      box.pid = short.p;
      box.place = short.d;
      box.cpu = short.u;
      box.waited = short.o;
    }
    return box;
  }

  function nameOf(task) {
    if (task.name !== undefined && task.name !== "") return task.name;
    if (task.index !== undefined) return "item " + task.index;
    return "task " + task.runid;
  }

  function takeBoxes(message) {
    if (message.fresh) {
      const same = new Map(); // names and places come often: one string each
      picture.boxes = message.boxes.map(boxOf).sort(function (a, b) { return a.stop - b.stop; });
      for (const box of picture.boxes) {
        if (box.place === undefined) continue;
        if (!same.has(box.place)) same.set(box.place, box.place);
        box.place = same.get(box.place);
      }
    } else if (message.boxes) {
      for (const short of message.boxes) picture.boxes.push(boxOf(short));
    }
    if (picture.boxes.length <= mostBoxes) return;
    picture.boxes.sort(function (a, b) { return a.stop - b.stop; });
    picture.boxes.splice(0, picture.boxes.length - mostBoxes * 3 / 4);
  }

  function take(message) {
    if (message.bye) {
      link = "ended";
      return;
    }
    for (const name of ["hello", "pools", "workers", "rows", "stats"])
      if (message[name] !== undefined) picture[name] = message[name];
    picture.now = message.now;
    if (message.all) picture.offset = message.offset || 0;
    picture.heard = performance.now();
    picture.silent = message.silent || 0;
    picture.gone = message.gone || null;
    picture.paused = message.paused === true;
    if (message.all) {
      picture.failures = [];
      picture.samples = [];
      clearBars();
      clearLog();
      clearFailures();
    }
    takeBoxes(message);
    if (message.all_samples) picture.samples = [];
    if (message.samples) picture.samples = picture.samples.concat(message.samples);
    if (message.bars) for (const bar of message.bars) newBars.set(bar.bar, bar);
    if (message.failures) for (const failure of message.failures) addFailure(failure);
    if (message.log) addLog(message.log, message.dropped || 0);
    stale = true;
  }

  // -- figures ------------------------------------------------------------------------------------

  const figures = new Map();

  function figure(name, value, look) {
    let place = figures.get(name);
    if (!place) {
      const box = make(at("figures"), "div");
      make(box, "dt", "", name);
      place = { box: box, value: make(box, "dd") };
      figures.set(name, place);
    }
    place.box.hidden = value === null;
    if (value !== null) say(place.value, value);
    const wanted = look || "";
    if (place.box.className !== wanted) place.box.className = wanted;
  }

  function sum(name) {
    return picture.pools.reduce(function (total, pool) { return total + (pool[name] || 0); }, 0);
  }

  // Tasks a second over the last half minute.
  function rateOf() {
    const samples = picture.samples, last = samples[samples.length - 1];
    if (!last) return 0;
    let first = last;
    for (let i = samples.length - 1; i >= 0 && last[0] - samples[i][0] <= 30; i--) first = samples[i];
    return last[0] > first[0] ? (last[3] - first[3]) / (last[0] - first[0]) : 0;
  }

  function drawFigures() {
    const bad = ["error", "unsendable", "exited", "killed", "timeout"];
    const failed = bad.reduce(function (total, kind) { return total + sum(kind); }, 0);
    const cancelled = sum("cancelled"), ok = sum("ok");
    const done = ok + failed + cancelled;
    const running = sum("running"), queued = sum("queued"), coming = sum("coming");
    const rate = rateOf(), left = running + queued + coming;
    const over = picture.gone !== null;
    figure("done", count(done), "kind-good");
    figure("failed", count(failed), failed > 0 ? "kind-bad" : "");
    figure("running", count(over ? 0 : running), running > 0 && !over ? "kind-busy" : "");
    figure("queued", count(queued + coming));
    figure("cancelled", cancelled > 0 ? count(cancelled) : null);
    figure("retried", sum("retried") > 0 ? count(sum("retried")) : null);
    figure("found", sum("found") > 0 ? count(sum("found")) : null);
    figure("per second", over ? null : rate >= 10 ? count(rate) : rate.toPrecision(2));
    figure("ETA", over || left === 0 || rate === 0 ? null : MantichoraTimeline.formatTime(Math.max(1, Math.round(left / rate)), 1));
    const stats = picture.stats || {};
    figure("memory", bytes((stats.rss || 0) + (stats.workers_rss || 0)));
    figure("CPUs busy", over ? null : ((stats.cpu || 0) + (stats.workers_cpu || 0)).toFixed(1));
    const total = done + left;
    const share = total > 0 && left > 0 && !over ? Math.floor(100 * done / total) + " % " : "";
    const title = picture.hello ? share + scriptName() + " · mantichora" : "mantichora";
    if (document.title !== title) document.title = title;
  }

  function scriptName() {
    const script = picture.hello.script || "script";
    return script.replace(/^.*\//, "");
  }

  function drawHead() {
    const hello = picture.hello;
    if (!hello) return;
    say(at("title"), [scriptName()].concat(hello.arguments || []).join(" "));
    const parts = ["PID " + hello.pid];
    if (hello.host) parts.push("on " + hello.host);
    if (hello.folder) parts.push("in " + hello.folder);
    if (hello.started) parts.push("since " + clockTime(hello.started));
    say(at("about"), parts.join(" · "));
  }

  // -- how it stands ------------------------------------------------------------------------------

  function standing() {
    if (link === "none" || link === "refused") return ["no token", ""];
    if (picture.gone === "ended") return ["The script has ended; this is its last picture", ""];
    if (picture.gone) return ["The script has gone without a word; this is its last picture", "lost"];
    if (link === "ended") return ["mantichora top has ended; this is the last picture", ""];
    if (link === "cut") return ["mantichora top cannot be reached; this is the last picture", "lost"];
    if (link === "connecting" || !picture.hello) return ["connecting", ""];
    if (picture.silent) return ["silent for " + picture.silent + " s", "silent"];
    if (picture.paused) return ["paused: no task starts", "paused"];
    return ["live", "live"];
  }

  function drawState() {
    const words = standing(), place = at("state");
    say(place, words[0]);
    place.className = "state" + (words[1] ? " state-" + words[1] : "");
    const lost = link === "none" || link === "refused";
    at("note").hidden = !lost;
    if (lost)
      say(at("note"), (link === "none" ? "This tab has no token for the data" : "The token of this tab is not that of this viewer")
        + ". Open the address that mantichora top --web printed: it ends with #t= and 32 digits.");
  }

  // -- bars ---------------------------------------------------------------------------------------

  const bars = new Map();
  const newBars = new Map(); // what is to be drawn

  function clearBars() {
    bars.clear();
    newBars.clear();
    at("bars").replaceChildren();
    at("bars-ended").replaceChildren();
    at("bars-section").hidden = true;
  }

  function newBar(bar) {
    const root = make(at("bars"), "div", "bar");
    root.setAttribute("role", "progressbar");
    const text = make(root, "div", "bar-text");
    const parts = { root: root, name: make(text, "span", "bar-name"), count: make(text, "span", "bar-count") };
    parts.fill = make(make(root, "div", "bar-track"), "div", "bar-fill");
    parts.ended = false;
    bars.set(bar.bar, parts);
    at("bars-section").hidden = false;
    return parts;
  }

  function barWords(bar, share) {
    const words = [];
    const ended = bar.state !== undefined && bar.state !== "running";
    if (share !== null) words.push(share === 1 ? "100 %" : (Math.floor(share * 1000) / 10).toFixed(1) + " %");
    words.push(share !== null || bar.total === 0 ? quantity(bar, bar.done) + " / " + quantity(bar, bar.total) : quantity(bar, bar.done));
    if (!ended && bar.rate > 0) words.push(quantity(bar, bar.rate < 100 ? Number(bar.rate.toPrecision(2)) : Math.round(bar.rate)) + "/s");
    if (ended && bar.state !== "finished") words.push(bar.state);
    return words.join("\u2002");
  }

  function drawBar(bar) {
    let parts = bars.get(bar.bar);
    if (bar.gone) {
      if (parts) parts.root.remove();
      bars.delete(bar.bar);
      return;
    }
    if (!parts) parts = newBar(bar);
    const known = typeof bar.total === "number" && bar.done <= bar.total;
    const share = !known ? null : bar.total === 0 ? 1 : Math.max(0, bar.done / bar.total);
    const state = bar.state || "running";
    const words = barWords(bar, share);
    say(parts.name, bar.name || "");
    if (parts.name.title !== (bar.name || "")) parts.name.title = bar.name || "";
    say(parts.count, words);
    parts.fill.style.transform = "scaleX(" + (share === null ? 1 : share.toFixed(4)) + ")";
    const look = "bar bar-" + state + (share === null && state === "running" ? " bar-unknown" : "");
    if (parts.root.className !== look) parts.root.className = look;
    parts.root.setAttribute("aria-label", bar.name || "bar");
    parts.root.setAttribute("aria-valuetext", words);
    if (share !== null) parts.root.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    else parts.root.removeAttribute("aria-valuenow");
    if (state !== "running" && !parts.ended) {
      parts.ended = true;
      at("bars-ended").prepend(parts.root);
    }
  }

  // -- workers ------------------------------------------------------------------------------------

  const workerRows = new Map();

  function newWorker(id) {
    const row = document.createElement("tr");
    const cells = ["number", "number wide", "task text", "number", "number", "number", "number wide"].map(function (name) {
      return make(row, "td", name);
    });
    const parts = { row: row, cells: cells };
    workerRows.set(id, parts);
    return parts;
  }

  function poolName(pool) {
    const found = picture.pools.find(function (one) { return one.pool === pool; });
    return found && found.name ? found.name : "pool " + pool;
  }

  function isAlone() {
    return new Set(picture.rows.map(function (row) { return row.pool; })).size <= 1;
  }

  function slotName(row) {
    const words = [];
    if (!isAlone()) words.push(poolName(row.pool));
    if (row.host) words.push(row.host);
    words.push(String(row.slot));
    return words.join(" ");
  }

  function drawWorkers() {
    const now = scriptNow(), seen = new Set();
    const over = picture.gone !== null;
    picture.workers.forEach(function (worker, number) {
      const parts = workerRows.get(worker.row) || newWorker(worker.row), cells = parts.cells;
      const busy = worker.runid !== undefined;
      seen.add(worker.row);
      parts.row.className = busy && !over ? "" : "idle";
      say(cells[0], slotName(worker));
      say(cells[1], String(worker.pid));
      say(cells[2], busy ? nameOf(worker) + (worker.attempt > 1 ? " (attempt " + worker.attempt + ")" : "") : "idle");
      cells[2].title = busy ? nameOf(worker) + (worker.place ? ", " + worker.place : "") : "";
      say(cells[3], busy ? Math.max(0, now - worker.since).toFixed(1) : "");
      say(cells[4], worker.cpu === undefined ? "" : Math.round(100 * worker.cpu) + " %");
      say(cells[5], worker.rss === undefined ? "" : bytes(worker.rss));
      say(cells[6], worker.tasks === undefined ? "" : count(worker.tasks));
      const there = at("workers").children[number];
      if (there !== parts.row) at("workers").insertBefore(parts.row, there || null);
    });
    for (const [id, parts] of workerRows) {
      if (seen.has(id)) continue;
      parts.row.remove();
      workerRows.delete(id);
    }
  }

  // -- the timeline -------------------------------------------------------------------------------

  let timeline = null;
  let shownRows = "";

  function isEnded(worker) {
    const key = keyOf(worker.pool, worker.runid, worker.attempt);
    for (let i = picture.boxes.length - 1, seen = 0; i >= 0 && seen < 400; i--, seen++)
      if (picture.boxes[i].key === key) return true;
    return false;
  }

  function runningBoxes() {
    const running = picture.workers.filter(function (worker) {
      return worker.runid !== undefined && worker.since !== undefined && !isEnded(worker);
    });
    return running.map(function (worker) {
      return {
        row: worker.row, start: wallOf(worker.since), stop: null, kind: "running",
        name: nameOf(worker), key: keyOf(worker.pool, worker.runid, worker.attempt), pool: worker.pool,
        runid: worker.runid, attempt: worker.attempt, place: worker.place, pid: worker.pid,
      };
    });
  }

  function drawTimeline() {
    const rows = picture.rows.map(function (row) { return { id: row.id, name: slotName(row) }; });
    const key = JSON.stringify(rows);
    if (key !== shownRows) {
      shownRows = key;
      timeline.setRows(rows);
    }
    timeline.setBoxes(picture.boxes.concat(runningBoxes()));
  }

  function moveTimeline() {
    const now = wallOf(scriptNow());
    const oldest = picture.pools.reduce(function (least, pool) { return Math.min(least, wallOf(pool.since || picture.now)); }, now);
    const length = Number(at("window").value);
    timeline.setRange(Math.max(now - length, Math.min(oldest, now - 10)), now);
    timeline.setNow(now);
  }

  function fact(list, name, value) {
    if (value === undefined || value === null || value === "") return;
    const line = make(list, "div");
    make(line, "dt", "", name);
    make(line, "dd", "", value);
  }

  function reportOf(box) {
    for (let i = picture.failures.length - 1; i >= 0; i--) {
      const failure = picture.failures[i];
      if (keyOf(failure.pool, failure.runid, failure.attempt) === box.key) return failure.report || failure.message;
    }
    return null;
  }

  function tellMany(facts, box) {
    fact(facts, box.kind, count(box.count));
    fact(facts, "worked", span(box.busy || 0));
    fact(facts, "in", span(box.stop - box.start));
    fact(facts, "from", clockTime(box.start));
  }

  function tellOne(facts, box) {
    fact(facts, "run ID", String(box.runid));
    fact(facts, "", box.kind === "running" ? "running" : box.kind);
    fact(facts, "took", box.stop === null ? undefined : span(box.stop - box.start));
    fact(facts, "waited", box.waited === undefined ? undefined : span(box.waited));
    fact(facts, "CPU", box.cpu === undefined ? undefined : span(box.cpu));
    fact(facts, "memory", box.maxrss ? bytes(box.maxrss) : undefined);
    fact(facts, "began", clockTime(box.start));
    fact(facts, "attempt", box.attempt > 1 ? String(box.attempt) : undefined);
    fact(facts, "PID", box.pid === undefined ? undefined : String(box.pid));
    fact(facts, "function", box.place);
  }

  function choose(box) {
    const facts = at("chosen-facts"), report = at("chosen-report");
    facts.replaceChildren();
    say(at("chosen-title"), box.count > 1 ? count(box.count) + " short tasks, not told one by one" : box.name);
    if (box.count > 1) tellMany(facts, box);
    else tellOne(facts, box);
    const failed = !(box.count > 1) && ["ok", "running"].indexOf(box.kind) < 0;
    const text = failed ? reportOf(box) || "Its report is not kept here any more." : null;
    report.hidden = !text;
    say(report, text || "");
    at("chosen").hidden = false;
    at("chosen").focus({ preventScroll: true });
    at("chosen").scrollIntoView({ block: "nearest" });
  }

  function leaveChosen() {
    at("chosen").hidden = true;
    const view = document.querySelector("#timeline .timeline-view");
    if (view) view.focus({ preventScroll: true });
  }

  // -- the last tasks, for those who do not see the timeline ------------------------------------

  const mostLast = 20;
  const lastRows = [];

  function newLast() {
    const row = make(at("last"), "tr"), place = { row: row, box: null };
    place.name = make(make(row, "td"), "button", "text");
    place.name.type = "button";
    place.name.addEventListener("click", function () { choose(place.box); });
    place.kind = make(make(row, "td"), "span");
    place.others = [0, 1, 2].map(function () { return make(row, "td", "number"); });
    lastRows.push(place);
    return place;
  }

  function drawLast() {
    // Nothing moves under a pointer or a focus.
    if (at("last-tasks").open && at("last-tasks").matches(":hover, :focus-within")) return;
    let count = 0;
    for (let i = picture.boxes.length - 1; i >= 0 && count < mostLast; i--) {
      const box = picture.boxes[i];
      if (box.count > 1) continue;
      const place = lastRows[count] || newLast();
      count++;
      if (place.box && place.box.key === box.key) continue;
      place.box = box;
      say(place.name, box.name);
      say(place.kind, box.kind);
      place.kind.className = "kind kind-" + box.kind;
      say(place.others[0], box.row.slice(box.row.indexOf(".") + 1));
      say(place.others[1], span(box.stop - box.start));
      say(place.others[2], clockTime(box.stop));
    }
    while (lastRows.length > count) lastRows.pop().row.remove();
  }

  // -- curves -------------------------------------------------------------------------------------

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888";
  }

  function niceAbove(value, base) {
    if (!(value > 0)) return 1;
    const power = Math.pow(base, Math.floor(Math.log(value) / Math.log(base)));
    for (const step of base === 2 ? [1, 1.25, 1.5, 1.75, 2] : [1, 2, 5, 10])
      if (step * power >= value) return step * power;
    return base * power;
  }

  function drawCurve(pen, samples, column, place, most, stroke, fill) {
    if (samples.length < 2) return;
    const first = samples[0][0], last = samples[samples.length - 1][0];
    const x = function (sample) { return place.left + (sample[0] - first) / Math.max(1e-9, last - first) * place.width; };
    const y = function (sample) { return place.top + place.height * (1 - sample[column] / most); };
    pen.beginPath();
    samples.forEach(function (sample, i) {
      if (i === 0) pen.moveTo(x(sample), y(sample));
      else pen.lineTo(x(sample), y(sample));
    });
    pen.lineWidth = 1.6;
    pen.lineJoin = "round";
    pen.strokeStyle = stroke;
    pen.stroke();
    if (!fill) return;
    pen.lineTo(place.left + place.width, place.top + place.height);
    pen.lineTo(place.left, place.top + place.height);
    pen.globalAlpha = 0.16;
    pen.fillStyle = stroke;
    pen.fill();
    pen.globalAlpha = 1;
  }

  function drawChart(canvas, curves, base, words) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (width === 0) return;
    const w = Math.round(width * ratio), h = Math.round(height * ratio);
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
    }
    const pen = canvas.getContext("2d"), samples = picture.samples;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const place = { left: 0, top: 22, width: width, height: height - 42 };
    let most = 0;
    for (const curve of curves) for (const sample of samples) most = Math.max(most, sample[curve.column]);
    most = niceAbove(most, base);
    pen.font = "11px " + getComputedStyle(canvas).fontFamily;
    pen.textBaseline = "middle";
    pen.fillStyle = colour("--line");
    pen.fillRect(0, place.top, width, 1);
    pen.fillRect(0, place.top + place.height, width, 1);
    pen.fillStyle = colour("--faint");
    pen.textAlign = "left";
    pen.fillText(words(most), 6, 11);
    if (samples.length > 1) {
      const length = samples[samples.length - 1][0] - samples[0][0];
      pen.fillText(MantichoraTimeline.formatTime(-Math.round(length), 1), 6, height - 9);
      pen.textAlign = "right";
      pen.fillText(picture.gone ? "end" : "now", width - 6, height - 9);
    }
    for (const curve of curves) drawCurve(pen, samples, curve.column, place, most, colour(curve.colour), curve.fill);
  }

  function mostOf(column) {
    return picture.samples.reduce(function (most, sample) { return Math.max(most, sample[column]); }, 0);
  }

  const captions = new Map();

  function caption(id, parts) {
    let places = captions.get(id);
    if (!places) {
      places = parts.map(function (part, i) {
        make(at(id), "span", part[0]);
        return make(at(id), "span", i < parts.length - 1 ? "caption-gap" : "");
      });
      captions.set(id, places);
    }
    parts.forEach(function (part, i) { say(places[i], part[1] + (i < parts.length - 1 ? "\u2003" : "")); });
  }

  function drawCharts() {
    drawChart(at("queue-chart"), [
      { column: 1, colour: "--kind-timeout", fill: true }, { column: 2, colour: "--kind-running" },
    ], 10, count);
    drawChart(at("memory-chart"), [{ column: 5, colour: "--accent", fill: true }], 2, bytes);
    caption("queue-text", [
      ["swatch-queued", "queued " + count(sum("queued")) + " (most " + count(mostOf(1)) + ")"],
      ["swatch-running", "running " + count(picture.gone ? 0 : sum("running"))],
    ]);
    const stats = picture.stats || {};
    caption("memory-text", [["swatch-memory", bytes((stats.rss || 0) + (stats.workers_rss || 0)) + ", of it the script "
      + bytes(stats.rss || 0) + " (most together " + bytes(mostOf(5)) + ")"]]);
  }

  // -- failures and log ---------------------------------------------------------------------------

  function clearFailures() {
    at("failures").replaceChildren();
  }

  function addFailure(failure) {
    picture.failures.push(failure);
    const box = document.createElement("details");
    const summary = make(box, "summary");
    make(summary, "span", "kind kind-" + failure.kind, failure.kind);
    make(summary, "span", "text", " " + nameOf(failure) + (failure.retried ? " (attempt " + failure.attempt + ", is retried)" : ""));
    make(summary, "span", "faint", " " + clockTime(wallOf(failure.clock)));
    if (failure.message) make(summary, "span", "message", failure.message);
    box.addEventListener("toggle", function () {
      if (box.open && !box.querySelector("pre")) make(box, "pre", "", failure.report || failure.message || "").tabIndex = 0;
    });
    at("failures").prepend(box);
    while (picture.failures.length > mostFailures) {
      picture.failures.shift();
      at("failures").lastElementChild.remove();
    }
  }

  function clearLog() {
    at("log").replaceChildren();
  }

  function logLine(entry) {
    const line = document.createElement("div");
    if (entry.skipped !== undefined) {
      line.className = "skipped";
      line.textContent = count(entry.skipped) + " lines were skipped, as they came too fast";
      return line;
    }
    make(line, "span", "when", clockTime(entry.time || wallOf(entry.clock)) + " ");
    if (entry.level) {
      const number = entry.levelno || 0;
      line.className = "record" + (number < 30 ? " quiet" : "");
      make(line, "span", number >= 40 ? "error" : number >= 30 ? "warning" : "", entry.level + ":" + entry.logger + ":");
    } else {
      line.className = "output";
    }
    line.appendChild(document.createTextNode(entry.message || ""));
    return line;
  }

  let logFollows = true; // the newest line stays in view, unless the user has scrolled away from it

  function showNewest() {
    if (logFollows) at("log").scrollTop = at("log").scrollHeight;
  }

  function addLog(entries, dropped) {
    const log = at("log");
    const lines = document.createDocumentFragment();
    if (dropped > 0) lines.appendChild(logLine({ skipped: dropped }));
    for (const entry of entries) lines.appendChild(logLine(entry));
    log.appendChild(lines);
    while (log.childElementCount > mostLog) log.firstElementChild.remove();
    showNewest();
  }

  // -- drawing ------------------------------------------------------------------------------------

  function draw() {
    drawState();
    if (!picture.hello) return;
    if (!timeline) {
      at("main").hidden = false;
      showNewest();
      timeline = MantichoraTimeline.create(at("timeline"), {
        label: "Tasks by worker slot", onpick: choose, height: 330,
        format: axisTime,
      });
      MantichoraTimeline.legend(at("legend"));
    }
    for (const bar of newBars.values()) drawBar(bar);
    newBars.clear();
    if (stale) {
      stale = false;
      drawHead();
      drawFigures();
      drawTimeline();
      drawLast();
    }
    const last = picture.samples[picture.samples.length - 1];
    if (last !== charted || picture.gone) {
      charted = last;
      drawCharts();
    }
    drawWorkers();
    moveTimeline();
    if (holder) requestAnimationFrame(letLoad);
  }

  // The axis has the time of day.
  function axisTime(time, step) {
    const digits = step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step) - 1e-9));
    const exact = Number(time.toFixed(digits)), text = clockTime(exact);
    if (step >= 60) return text.slice(0, 5);
    return digits === 0 ? text : text + (exact - Math.floor(exact)).toFixed(digits).slice(1);
  }

  // -- being loaded -------------------------------------------------------------------------------

  // The page counts as loading until it shows something, at most three seconds: what prints it or takes its
  // picture waits so long. A frame whose document is open holds that back.
  let holder = null;

  function holdLoading() {
    holder = make(document.body, "iframe");
    holder.hidden = true;
    holder.contentDocument.open();
    setTimeout(letLoad, 3000);
  }

  function letLoad() {
    if (!holder) return;
    holder.contentDocument.close();
    holder.remove();
    holder = null;
  }

  // -- the stream ---------------------------------------------------------------------------------

  function tokenOf(hash) {
    const found = /[#&]t=([0-9a-f]{32})(?![0-9a-f])/.exec(hash);
    return found && found[1];
  }

  // Takes the token out of the address, where it could be seen, copied and remembered.
  function readToken() {
    const token = tokenOf(location.hash);
    if (token) {
      sessionStorage.setItem(storage, token);
      history.replaceState(null, "", location.pathname);
    }
    return token || sessionStorage.getItem(storage);
  }

  async function readLines(body) {
    const reader = body.getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const piece = await reader.read();
      if (piece.done) return;
      const lines = (rest + decoder.decode(piece.value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) take(JSON.parse(line));
      if (holder) draw();
    }
  }

  let turn = 0; // a new token ends the stream of the old one

  async function follow(token) {
    const mine = ++turn;
    let pause = 500;
    while (mine === turn) {
      try {
        const answer = await fetch("/stream", { headers: { Authorization: "Bearer " + token }, cache: "no-store" });
        if (answer.status === 403) {
          link = "refused";
          sessionStorage.removeItem(storage);
          letLoad();
          return draw();
        }
        if (answer.ok) {
          link = "open";
          pause = 500;
          await readLines(answer.body);
        }
      } catch (problem) {
        console.warn(String(problem));
      }
      if (mine !== turn || link === "ended") return draw();
      link = "cut";
      draw();
      await new Promise(function (go) { setTimeout(go, pause); });
      pause = Math.min(10000, 2 * pause);
    }
  }

  function begin() {
    const token = readToken();
    if (token) follow(token);
    else link = "none";
    if (!token) letLoad();
    draw();
  }

  window.addEventListener("hashchange", function () {
    if (tokenOf(location.hash)) begin();
  });
  window.addEventListener("resize", function () {
    charted = null;
    showNewest();
  });
  at("log").addEventListener("scroll", function () {
    const log = at("log");
    logFollows = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { charted = null; });
  at("window").addEventListener("change", draw);
  at("log-what").addEventListener("change", function () {
    at("log").dataset.what = at("log-what").value;
    logFollows = true;
    showNewest();
  });
  at("chosen-close").addEventListener("click", leaveChosen);
  at("chosen").addEventListener("keydown", function (event) {
    if (event.key === "Escape") leaveChosen();
  });
  if (document.readyState !== "complete") holdLoading();
  begin();
  setInterval(draw, pace);
})();
