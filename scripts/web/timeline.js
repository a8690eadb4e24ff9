// A timeline: a row a slot, a box a task, colour by kind. Drawn on one canvas; it needs no other file
// but common.css, fetches nothing and keeps no data but the rows, boxes and marks that it was given.
//
//   const line = MantichoraTimeline.create(element, { label, onpick, describe, format, height })
//     element    what it is built in; must be empty
//     label      what a screen reader calls it
//     onpick     called with a box that was clicked, or chosen by Enter or the space bar
//     describe   box -> the line of text told of a box; there is a usual one
//     format     seconds -> the text of a time on the axis, with a second argument: the axis's step
//     height     of the rows together in CSS pixels at most, then they scroll; default 360
//   line.setRows([{ id, name }])          from top to bottom; boxes of other rows are not shown
//   line.setBoxes([box]), addBoxes([box]) in any order
//   line.setMarks([{ row, at, name, kind }])   small triangles: a worker that died
//   line.setRange(from, to)               seconds: the whole; what the user has zoomed to stays
//   line.setNow(seconds)                  where boxes that still run end; default: the end of the range
//   line.focus(box, quietly), line.focused()   the chosen box, or null
//   line.show(from, to), line.showAll(), line.range()   zoom
//   line.update()                         draw again: boxes were changed in place (their `stop`, `kind`)
//   line.boxes()                          how many there are
//   line.destroy()
//   MantichoraTimeline.legend(element, [kind]) fills an empty element with names and colours
//
// A box: { row, start, stop, kind, name, key, count, busy }. Times are seconds, on any clock; `stop` is null
// while it runs. `kind`: ok, error, unsendable, exited, killed, timeout, cancelled or running; its colour is
// the custom property --kind-KIND. `key` keeps the choice when the boxes are set anew. A box with a `count` above
// 1 stands for so many tasks, which worked `busy` seconds of its time. Boxes of a row do not overlap.
"use strict";

const MantichoraTimeline = (function () {
  const kinds = ["ok", "error", "unsendable", "exited", "killed", "timeout", "cancelled", "running"];
  const failures = { error: 1, unsendable: 1, exited: 1, killed: 1, timeout: 1 };
  const axisHeight = 22;
  const steps = [1, 2, 5];

  function make(parent, tag, name) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    parent.appendChild(element);
    return element;
  }

  // -- words ------------------------------------------------------------------------------------

  function formatTime(seconds, step) {
    const sign = seconds < 0 ? "-" : "";
    const digits = step >= 1 ? 0 : Math.min(9, Math.ceil(-Math.log10(step) - 1e-9));
    let rest = Math.abs(seconds);
    if (rest < 100) return sign + rest.toFixed(digits) + " s";
    rest = Number(rest.toFixed(digits));
    const hours = Math.floor(rest / 3600);
    const minutes = Math.floor(rest / 60) % 60;
    const last = (rest % 60).toFixed(digits).padStart(digits > 0 ? digits + 3 : 2, "0");
    return sign + (hours > 0 ? hours + ":" + String(minutes).padStart(2, "0") : minutes) + ":" + last;
  }

  function formatSpan(seconds) {
    if (seconds < 1e-3) return (seconds * 1e6).toPrecision(3) + " µs";
    if (seconds < 1) return (seconds * 1e3).toPrecision(3) + " ms";
    if (seconds < 100) return seconds.toPrecision(3) + " s";
    return formatTime(Math.round(seconds), 1);
  }

  function describeBox(box) {
    const span = box.stop === null || box.stop === undefined ? null : box.stop - box.start;
    if (box.count > 1)
      return box.count + " tasks, " + formatSpan(box.busy === undefined ? span : box.busy) + " of work in " + formatSpan(span);
    return (box.name || "task") + ": " + (span === null ? "running" : (box.kind || "ok") + ", " + formatSpan(span));
  }

  // -- colours ----------------------------------------------------------------------------------

  function readColours(element) {
    const style = getComputedStyle(element);
    const colours = { kind: {} };
    for (const kind of kinds) colours.kind[kind] = style.getPropertyValue("--kind-" + kind).trim() || "#888";
    for (const name of ["text", "faint", "line", "paper", "on-kind"])
      colours[name] = style.getPropertyValue("--" + name).trim() || "#888";
    colours.font = style.fontFamily || "sans-serif";
    return colours;
  }

  function legend(element, which) {
    const list = make(element, "ul", "legend");
    for (const kind of which || kinds) {
      const item = make(list, "li");
      const swatch = make(item, "span", "swatch");
      swatch.style.backgroundColor = "var(--kind-" + kind + ")";
      item.appendChild(document.createTextNode(kind));
    }
    return list;
  }

  // -- rows of boxes ----------------------------------------------------------------------------

  // The first box of the row that ends after this time: its boxes are in order and do not overlap.
  function firstAfter(row, time, now) {
    let low = 0, high = row.boxes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (stopOf(row.boxes[middle], now) < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function stopOf(box, now) {
    return box.stop === null || box.stop === undefined ? Math.max(now, box.start) : box.stop;
  }

  // -- the object -------------------------------------------------------------------------------

  function create(element, options) {
    options = options || {};
    const describe = options.describe || describeBox;
    const format = options.format || formatTime;
    const most = options.height || 360;

    const root = make(element, "div", "timeline");
    const tools = make(root, "div", "timeline-tools");
    const view = make(root, "div", "timeline-view");
    const sheet = make(view, "div", "timeline-sheet");
    const canvas = make(sheet, "canvas");
    const said = make(root, "p", "timeline-said");
    const pen = canvas.getContext("2d");

    let rows = [], byId = new Map(), strays = [], marks = [];
    let whole = { from: 0, to: 1 }, zoom = null, now = null;
    let focus = null, colours = null, scheduled = false, gone = false;
    let width = 0, height = 0, rowHeight = 18, labelWidth = 0;
    let nameWidth = null; // of the widest name; null: not measured since the rows were set

    view.tabIndex = 0;
    view.setAttribute("role", "application");
    view.setAttribute("aria-roledescription", "timeline");
    view.setAttribute("aria-label", (options.label || "Timeline") +
      ". Arrow keys move among the tasks, Enter shows one, plus and minus zoom, 0 shows all.");
    said.setAttribute("aria-live", "polite");
    said.textContent = "\u00a0";

    function tool(text, label, action) {
      const button = make(tools, "button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", label);
      button.title = label;
      button.addEventListener("click", action);
    }
    tool("−", "Zoom out", function () { zoomBy(2); });
    tool("+", "Zoom in", function () { zoomBy(0.5); });
    tool("‹", "Earlier", function () { pan(-0.5); });
    tool("›", "Later", function () { pan(0.5); });
    tool("all", "Show all", function () { showAll(); });

    // -- time and place ---------------------------------------------------------------------

    function shown() {
      return zoom || whole;
    }

    function nowTime() {
      return now === null ? whole.to : now;
    }

    function xOf(time) {
      const range = shown();
      return labelWidth + (time - range.from) / (range.to - range.from) * (width - labelWidth);
    }

    function timeAt(x) {
      const range = shown();
      return range.from + (x - labelWidth) / Math.max(1, width - labelWidth) * (range.to - range.from);
    }

    function setZoom(from, to) {
      const least = 1e-6, span = Math.max(least, to - from);
      if (span >= whole.to - whole.from) zoom = null;
      else {
        from = Math.max(whole.from, Math.min(from, whole.to - span));
        zoom = { from: from, to: from + span };
      }
      schedule();
    }

    function zoomBy(factor, about) {
      const range = shown(), span = (range.to - range.from) * factor;
      if (about === undefined)
        about = focus && inside(focus) ? (focus.start + stopOf(focus, nowTime())) / 2 : (range.from + range.to) / 2;
      const share = (about - range.from) / (range.to - range.from);
      setZoom(about - span * share, about + span * (1 - share));
    }

    function inside(box) {
      const range = shown();
      return box.start < range.to && stopOf(box, nowTime()) > range.from;
    }

    function pan(share) {
      const range = shown(), by = (range.to - range.from) * share;
      if (zoom) setZoom(range.from + by, range.to + by);
    }

    function showAll() {
      zoom = null;
      schedule();
    }

    // -- drawing ----------------------------------------------------------------------------

    function widestName() {
      if (nameWidth !== null) return nameWidth;
      pen.font = "11px " + colours.font;
      nameWidth = rows.slice(0, 1000).reduce(function (most, row) {
        return Math.max(most, pen.measureText(String(row.name)).width);
      }, 0);
      return nameWidth;
    }

    function measure() {
      const room = Math.max(60, Math.min(most, rows.length * 22));
      width = view.clientWidth;
      labelWidth = Math.min(140, Math.max(48, Math.round(width * 0.16)), widestName() + 16);
      rowHeight = Math.max(8, Math.min(22, Math.floor(room / Math.max(1, rows.length))));
      height = axisHeight + Math.min(Math.max(1, rows.length) * rowHeight, most);
      sheet.style.height = axisHeight + Math.max(1, rows.length) * rowHeight + "px";
      view.style.height = height + "px";
      const ratio = window.devicePixelRatio || 1;
      const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
      if (canvas.width !== w || canvas.height !== h) {
        canvas.width = w;
        canvas.height = h;
        canvas.style.width = width + "px";
        canvas.style.height = height + "px";
      }
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    }

    function stepFor(span, room) {
      const least = span / Math.max(1, room / 84);
      const power = Math.pow(10, Math.floor(Math.log10(least)));
      if (least > 30) { // minutes and hours divide by 60
        for (const step of [60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400])
          if (step >= least) return step;
        return 86400 * Math.ceil(least / 86400);
      }
      for (const step of steps) if (step * power >= least) return step * power;
      return 10 * power;
    }

    function drawAxis() {
      const range = shown(), step = stepFor(range.to - range.from, width - labelWidth);
      pen.font = "11px " + colours.font;
      pen.textBaseline = "middle";
      pen.textAlign = "left";
      for (let n = Math.ceil(range.from / step - 1e-9); n * step <= range.to + step * 1e-9; n++) {
        const x = Math.round(xOf(n * step)) + 0.5;
        pen.fillStyle = colours.line;
        pen.fillRect(x - 0.5, 0, 1, height);
        pen.fillStyle = colours.faint;
        const text = format(n * step, step);
        if (x + 4 + pen.measureText(text).width <= width) pen.fillText(text, x + 3, axisHeight / 2);
      }
    }

    function cut(text, room) {
      if (pen.measureText(text).width <= room) return text;
      let low = 0, high = Math.min(text.length, 200);
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (pen.measureText(text.slice(0, middle) + "…").width <= room) low = middle;
        else high = middle - 1;
      }
      return low > 0 ? text.slice(0, low) + "…" : "";
    }

    function drawLabel(row, y) {
      pen.fillStyle = colours.paper;
      pen.fillRect(0, y, labelWidth - 2, rowHeight);
      if (rowHeight < 11 && row.number % Math.ceil(11 / rowHeight) !== 0) return;
      pen.fillStyle = focus && focus.row === row.id ? colours.text : colours.faint;
      pen.font = "11px " + colours.font;
      pen.textBaseline = "middle";
      pen.fillText(cut(String(row.name), labelWidth - 10), 4, y + Math.max(rowHeight, 11) / 2);
    }

    function shareOf(box, span) {
      if (!(box.count > 1) || box.busy === undefined || span <= 0) return 1;
      return Math.max(0.25, Math.min(1, box.busy / span));
    }

    function drawBox(box, x, end, y, h) {
      const gap = end - x > 3 ? 1 : 0;
      pen.fillStyle = colours.kind[box.kind] || colours.kind.ok;
      pen.globalAlpha = shareOf(box, stopOf(box, nowTime()) - box.start);
      pen.fillRect(x, y, end - x - gap, h);
      pen.globalAlpha = 1;
      if (failures[box.kind] && h > 6) { // told by its form too
        pen.fillStyle = colours["on-kind"];
        pen.fillRect(x, y + h - 3, Math.min(end - x - gap, 6), 2);
      }
      if (end - x < 28 || h < 11) return;
      pen.fillStyle = colours["on-kind"];
      pen.font = "11px " + colours.font;
      const left = Math.max(x, labelWidth);
      const text = box.count > 1 ? "× " + box.count : box.name || "";
      pen.fillText(cut(String(text), end - left - 8), left + 4, y + h / 2 + 0.5);
    }

    // Boxes narrower than a pixel share one column: as much colour as there was work, and a failure shows.
    function drawRow(row, y) {
      const range = shown(), time = nowTime();
      const top = y + 1, h = rowHeight - 2, scale = (width - labelWidth) / (range.to - range.from);
      let column = -1, covered = 0, kind = "ok";
      function flush() {
        if (column < 0) return;
        pen.fillStyle = colours.kind[kind] || colours.kind.ok;
        pen.globalAlpha = failures[kind] ? 1 : Math.max(0.3, Math.min(1, covered));
        pen.fillRect(column, top, failures[kind] ? 2 : 1, h);
        pen.globalAlpha = 1;
        column = -1;
      }
      for (let i = firstAfter(row, range.from, time); i < row.boxes.length; i++) {
        const box = row.boxes[i];
        if (box.start > range.to) break;
        const x = Math.max(labelWidth - 1, xOf(box.start)), end = Math.min(width + 1, xOf(stopOf(box, time)));
        if (end - x >= 1.5) {
          flush();
          drawBox(box, x, end, top, h);
          continue;
        }
        if (Math.floor(x) !== column) {
          flush();
          column = Math.floor(x);
          covered = 0;
          kind = box.kind || "ok";
        }
        covered += (box.count > 1 && box.busy !== undefined ? box.busy : stopOf(box, time) - box.start) * scale;
        if (failures[box.kind] || (kind === "ok" && box.kind)) kind = failures[kind] ? kind : box.kind;
      }
      flush();
    }

    function drawMarks(rowTop) {
      for (const mark of marks) {
        const row = byId.get(mark.row), x = row ? xOf(mark.at) : -1;
        if (!row || x < labelWidth || x > width) continue;
        const y = rowTop(row.number) + rowHeight - 1;
        pen.fillStyle = colours.text;
        pen.beginPath();
        pen.moveTo(x, y - 7);
        pen.lineTo(x - 4, y);
        pen.lineTo(x + 4, y);
        pen.fill();
      }
    }

    function drawFocus(rowTop) {
      const row = focus && byId.get(focus.row);
      if (!row || !inside(focus)) return;
      const x = Math.max(labelWidth, xOf(focus.start)), end = Math.min(width, xOf(stopOf(focus, nowTime())));
      const left = Math.min(x, width - 5) + 1, wide = Math.max(5, end - x) - 2, top = rowTop(row.number) + 1;
      for (const [colour, thick] of [[colours.paper, 4], [colours.text, 2]]) { // seen on any colour
        pen.strokeStyle = colour;
        pen.lineWidth = thick;
        pen.strokeRect(left, top, wide, rowHeight - 2);
      }
    }

    function draw() {
      scheduled = false;
      if (gone) return;
      if (!colours) colours = readColours(root);
      measure();
      if (width <= 0) return;
      const scroll = view.scrollTop;
      const rowTop = function (number) { return axisHeight + number * rowHeight - scroll; };
      const first = Math.max(0, Math.floor(scroll / rowHeight) - 1);
      const last = Math.min(rows.length, Math.ceil((scroll + height) / rowHeight) + 1);
      pen.clearRect(0, 0, width, height);
      drawAxis();
      pen.save();
      pen.beginPath();
      pen.rect(0, axisHeight, width, height - axisHeight);
      pen.clip();
      for (let number = first; number < last; number++) drawRow(rows[number], rowTop(number));
      drawMarks(rowTop);
      drawFocus(rowTop);
      for (let number = first; number < last; number++) drawLabel(rows[number], rowTop(number));
      pen.restore();
    }

    function schedule() {
      if (scheduled || gone) return;
      scheduled = true;
      requestAnimationFrame(draw);
    }

    // -- choosing ---------------------------------------------------------------------------

    function say(box) {
      said.textContent = box ? describe(box) : "\u00a0";
    }

    function reveal(box) {
      const range = shown(), span = range.to - range.from;
      const start = box.start, stop = stopOf(box, nowTime()), row = byId.get(box.row);
      if (zoom && (stop < range.from + span * 0.02 || start > range.to - span * 0.02))
        setZoom((start + stop) / 2 - span / 2, (start + stop) / 2 + span / 2);
      if (!row) return;
      const top = row.number * rowHeight;
      if (top < view.scrollTop) view.scrollTop = top;
      else if (top + rowHeight > view.scrollTop + height - axisHeight)
        view.scrollTop = top + rowHeight - (height - axisHeight);
    }

    function setFocus(box, quietly) {
      focus = box || null;
      if (focus) reveal(focus);
      if (!quietly) say(focus);
      schedule();
    }

    function pick(box) {
      setFocus(box);
      if (box && options.onpick) options.onpick(box);
    }

    // The box of the row at this time, or the one that is nearest.
    function nearest(row, time) {
      const i = firstAfter(row, time, nowTime()), before = row.boxes[i - 1], after = row.boxes[i];
      if (!before || !after) return after || before || null;
      if (after.start <= time) return after;
      return time - stopOf(before, nowTime()) < after.start - time ? before : after;
    }

    function boxAt(event) {
      const place = canvas.getBoundingClientRect();
      const x = event.clientX - place.left, y = event.clientY - place.top;
      if (x < labelWidth || y < axisHeight) return null;
      const row = rows[Math.floor((y - axisHeight + view.scrollTop) / rowHeight)];
      const box = row && nearest(row, timeAt(x));
      if (!box) return null;
      const slack = 4;
      return xOf(box.start) <= x + slack && xOf(stopOf(box, nowTime())) >= x - slack ? box : null;
    }

    function filled(from, by) {
      for (let number = from; number >= 0 && number < rows.length; number += by)
        if (rows[number].boxes.length > 0) return rows[number];
      return null;
    }

    function firstBox() {
      const row = filled(0, 1);
      return row && nearest(row, shown().from);
    }

    function step(name) {
      const row = focus && byId.get(focus.row);
      if (!row) return firstBox();
      const at = row.boxes.indexOf(focus), middle = (focus.start + stopOf(focus, nowTime())) / 2;
      if (name === "ArrowLeft") return row.boxes[Math.max(0, at - 1)];
      if (name === "ArrowRight") return row.boxes[Math.min(row.boxes.length - 1, at + 1)];
      if (name === "Home") return row.boxes[0];
      if (name === "End") return row.boxes[row.boxes.length - 1];
      const other = name === "ArrowUp" ? filled(row.number - 1, -1) : filled(row.number + 1, 1);
      return other ? nearest(other, middle) : focus;
    }

    const keys = {
      "+": function () { zoomBy(0.5); },
      "=": function () { zoomBy(0.5); },
      "-": function () { zoomBy(2); },
      "0": showAll,
      PageUp: function () { pan(-0.8); },
      PageDown: function () { pan(0.8); },
      Enter: function () { if (focus) pick(focus); else setFocus(firstBox()); },
      " ": function () { keys.Enter(); },
      Escape: function () { setFocus(null); },
    };
    for (const name of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"])
      keys[name] = function () { setFocus(step(name)); };

    view.addEventListener("keydown", function (event) {
      if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });

    // -- the pointer: a click picks, a drag pans, Ctrl and the wheel zoom ---------------------

    let press = null;
    view.addEventListener("pointerdown", function (event) {
      if (event.button !== 0) return;
      press = { x: event.clientX, range: shown(), dragged: false };
    });
    view.addEventListener("pointermove", function (event) {
      if (!press) return say(boxAt(event) || focus);
      if (Math.abs(event.clientX - press.x) > 4) press.dragged = true;
      if (!press.dragged || !zoom) return;
      const span = press.range.to - press.range.from;
      const by = (press.x - event.clientX) / Math.max(1, width - labelWidth) * span;
      setZoom(press.range.from + by, press.range.to + by);
    });
    view.addEventListener("pointerup", function (event) {
      const box = press && !press.dragged ? boxAt(event) : null;
      press = null;
      if (box) pick(box);
    });
    view.addEventListener("pointercancel", function () { press = null; });
    view.addEventListener("pointerleave", function () {
      press = null;
      say(focus);
    });
    view.addEventListener("wheel", function (event) {
      const place = canvas.getBoundingClientRect();
      if (event.ctrlKey) zoomBy(Math.pow(1.2, Math.sign(event.deltaY)), timeAt(event.clientX - place.left));
      else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
        pan((event.deltaX || event.deltaY) / Math.max(1, width));
      else return;
      event.preventDefault();
    }, { passive: false });
    view.addEventListener("scroll", schedule);
    view.addEventListener("focus", function () { say(focus); });

    // -- what changes around it ---------------------------------------------------------------

    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    function recolour() {
      colours = null;
      schedule();
    }
    dark.addEventListener("change", recolour);
    const watcher = new ResizeObserver(schedule);
    watcher.observe(root);

    // -- data -----------------------------------------------------------------------------------

    function put(list) {
      const touched = new Set();
      for (const box of list) {
        const row = byId.get(box.row);
        if (!row) {
          strays.push(box);
          continue;
        }
        const before = row.boxes[row.boxes.length - 1];
        if (before && before.start > box.start) touched.add(row);
        row.boxes.push(box);
      }
      for (const row of touched) row.boxes.sort(function (a, b) { return a.start - b.start; });
      schedule();
    }

    function allBoxes() {
      const all = strays;
      for (const row of rows) for (const box of row.boxes) all.push(box);
      return all;
    }

    function setBoxes(list) {
      const chosen = focus;
      strays = [];
      for (const row of rows) row.boxes = [];
      put(list);
      if (!chosen) return;
      focus = list.indexOf(chosen) >= 0 ? chosen : null;
      if (!focus && chosen.key !== undefined)
        focus = list.find(function (box) { return box.key === chosen.key; }) || null;
    }

    function setRows(list) {
      const all = allBoxes();
      byId = new Map();
      nameWidth = null;
      rows = list.map(function (row, number) {
        return { id: row.id, name: row.name === undefined ? row.id : row.name, number: number, boxes: [] };
      });
      for (const row of rows) byId.set(row.id, row);
      strays = [];
      put(all);
    }

    schedule();
    return {
      setRows: setRows,
      setBoxes: setBoxes,
      addBoxes: put,
      setMarks: function (list) { marks = list; schedule(); },
      setRange: function (from, to) {
        whole = { from: from, to: Math.max(to, from + 1e-6) };
        if (zoom) setZoom(zoom.from, zoom.to);
        schedule();
      },
      setNow: function (time) { now = time; schedule(); },
      focus: setFocus,
      focused: function () { return focus; },
      show: setZoom,
      showAll: showAll,
      range: shown,
      update: schedule,
      boxes: function () {
        return rows.reduce(function (sum, row) { return sum + row.boxes.length; }, strays.length);
      },
      destroy: function () {
        gone = true;
        watcher.disconnect();
        dark.removeEventListener("change", recolour);
        root.remove();
      },
    };
  }

  return {
    create: create,
    legend: legend,
    formatTime: formatTime,
    formatSpan: formatSpan,
    describe: describeBox,
    kinds: kinds,
  };
})();
