"use strict";
// The page works without this script; it adds sorting, finding, the matrix, single evaluations and comparing. Everything that
// comes from models or files goes in as text, never as markup.
(() => {
const root = document.documentElement, byId = id => document.getElementById(id);
root.classList.add("run");
const make = (tag, props = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...inside.filter(one => one != null));
  return node;
};
const bdi = text => { const node = make("bdi"); write(node, String(text)); return node; };
const count = (n, what) => n.toLocaleString("en") + " " + what + (n === 1 ? "" : "s");
const number = value => value == null ? "-" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toFixed(3)));

// Texts: what cannot be seen is shown, what is long is cut until somebody asks.
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const shownAs = c => {
  const code = c.charCodeAt(0);
  return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127 ? "\u2421" : "U+" + code.toString(16).toUpperCase().padStart(4, "0");
};
function write(node, text) {
  let last = 0;
  for (const found of text.matchAll(unseen)) {
    node.append(text.slice(last, found.index), make("span", {className: "control", title: "a character that cannot be seen"}, shownAs(found[0])));
    last = found.index + found[0].length;
  }
  node.append(text.slice(last));
  return node;
}
const CUT = 4000;
function textBox(text) {
  let left = 0;
  if (Array.isArray(text)) [text, left] = text;
  const pre = make("pre", {dir: "auto", tabIndex: 0}), box = make("div", {}, pre);
  const rest = left ? make("p", {className: "soft small"}, left.toLocaleString("en") + " more characters are in the store: farthing report RUN --full, or farthing cache export.") : null;
  if (text.length > CUT * 1.25) {
    write(pre, text.slice(0, CUT));
    const all = make("button", {type: "button"}, "Show all " + text.length.toLocaleString("en") + " characters");
    all.onclick = () => { pre.textContent = ""; write(pre, text); all.remove(); pre.focus(); };
    box.append(make("p", {}, all));
  } else write(pre, text);
  if (rest) box.append(rest);
  return box;
}

// Light and dark.
const keep = value => { try { return value === undefined ? localStorage.getItem("farthing-theme") : localStorage.setItem("farthing-theme", value); } catch { return null; } };
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
if (["dark", "light"].includes(keep())) root.dataset.theme = keep();
byId("theme").onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; keep(root.dataset.theme); draw(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

// Tables that sort by their headers.
function sortable(table, changed) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, at) => {
    if (!header.dataset.sort) return;
    const button = make("button", {type: "button"}, ...header.childNodes);
    header.append(button);
    button.onclick = () => {
      const now = header.getAttribute("aria-sort");
      const down = now ? now === "ascending" : header.dataset.first === "down";
      headers.forEach(other => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => { const cell = row.cells[at]; return cell.dataset.v ?? cell.textContent; };
      const numeric = header.dataset.sort === "number";
      const rows = [...table.tBodies[0].rows].map(row => [row, key(row)]);
      // What has no value stays last either way.
      rows.sort(([, a], [, b]) => a === "" || b === "" ? (a === "") - (b === "") : (numeric ? a - b : a.localeCompare(b)) * (down ? -1 : 1));
      table.tBodies[0].append(...rows.map(([row]) => row));
      changed();
    };
  });
}
let shownRows = 25;
function filtered() {
  const table = byId("table");
  if (!table) return;
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean), want = byId("standing").value;
  const fits = row => {
    const standing = row.dataset.standing;
    if (want === "pareto" ? !("pareto" in row.dataset) : want === "barred" ? standing === "eligible" : want && standing !== want) return false;
    const text = (row.textText ??= [...row.querySelectorAll(".param")].map(node => node.textContent.replace(/\s+/, "=")).join(" ").concat(" ", row.textContent).toLowerCase());
    return words.every(word => text.includes(word));
  };
  let fitting = 0, hidden = 0;
  for (const row of table.tBodies[0].rows) {
    const fit = fits(row);
    fitting += fit;
    row.hidden = !fit || fitting > shownRows;
    hidden += fit && row.hidden;
  }
  byId("found").textContent = words.length || want ? count(fitting, "configuration") : "";
  const more = byId("more");
  more.hidden = hidden === 0;
  more.textContent = "Show " + Math.min(hidden, 100) + " more of " + count(hidden, "configuration");
}
function ranking() {
  for (const table of document.querySelectorAll("table.sorts")) sortable(table, () => {});
  const table = byId("table");
  if (!table) return;
  sortable(table, filtered);
  byId("find").oninput = byId("standing").onchange = () => { shownRows = 25; filtered(); };
  byId("more").onclick = () => { shownRows += 100; filtered(); };
  filtered();
}
addEventListener("beforeprint", () => { shownRows = Infinity; filtered(); });

// Packed pieces, unpacked once.
const unpacked = new Map();
function block(name) {
  if (!unpacked.has(name)) unpacked.set(name, (async () => {
    const script = document.querySelector('script[data-block="' + name + '"]');
    if (!script) return null;
    const bytes = Uint8Array.from(atob(script.textContent), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  })());
  return unpacked.get(name);
}
const json = async name => { const bytes = await block(name); return bytes && JSON.parse(new TextDecoder().decode(bytes)); };

let doc = null, names = [], cells = new Map();
const trialName = trial => { const of = doc.trials[trial]; return of ? "#" + of.rank + " " + of.id : "#" + trial; };
const trialLabel = trial => { const of = doc.trials[trial]; return of ? "#" + of.rank + " " + of.label : "#" + trial; };
const level = code => doc.matrix.levels[code - 2];
const binary = () => doc.matrix.exact && doc.matrix.levels.every(value => value === 0 || value === 1);
const gain = value => doc.less ? -value : value;

// One evaluation.
async function evaluation(trial, instance) {
  const range = Math.floor(instance / doc.details.range), pieces = doc.details.pieces[trial];
  if (!pieces || !pieces.includes(range)) return null;
  const piece = await json("d" + trial + "." + range);
  const found = piece.evaluations.find(one => one.i === instance);
  if (!found) return null;
  let prompt = null;
  for (const name of ["p" + doc.details.groups[trial] + "." + range, "q" + trial + "." + range]) {
    const all = await json(name);
    const messages = all && all.prompts[instance];
    if (messages) {
      prompt = messages.map(([role, lines, cut]) => { const text = lines.map(line => all.lines[line]).join("\n"); return [role, cut ? [text, cut] : text]; });
      break;
    }
  }
  return {...found, prompt, responses: (found.r || []).map(at => piece.texts[at])};
}
const codeOf = (trial, instance) => cells.get(trial)?.[instance] ?? 0;
const scoreText = code => code === 0 ? "not asked" : code === 1 ? "missing" : doc.metric + " " + (doc.matrix.exact ? "" : "about ") + number(level(code));
const plain = text => Array.isArray(text) ? text[0] : text;

function facts(pairs) {
  const list = make("dl", {className: "pairs"});
  for (const [name, value] of pairs) if (value != null) list.append(make("dt", {}, name), make("dd", {}, typeof value === "object" ? value : bdi(value)));
  return list;
}
function about(found, code) {
  const pairs = [["result", scoreText(code)]];
  if (found) {
    if (found.x != null && doc.failures[found.x]) pairs.push(["missing because", doc.failures[found.x].join(": ")]);
    for (const [name, value] of Object.entries(found.m || {})) pairs.push([name, number(value)]);
    if (found.t) pairs.push(["tokens", found.t[0].toLocaleString("en") + " in, " + found.t[1].toLocaleString("en") + " out" + Object.entries(found.h || {}).map(([name, n]) => ", " + n.toLocaleString("en") + " " + name).join("")]);
    if (found.p) pairs.push(["price in production", "$" + found.p]);
    pairs.push(["cost to the study", "$" + found.c]);
    if (found.b) pairs.push(["answered by", found.b]);
  }
  return facts(pairs);
}
async function fields(instance) {
  const range = Math.floor(instance / doc.details.range);
  if (!doc.details.fields.includes(range)) return [];
  const own = (await json("i" + range))[instance];
  if (!own) return [];
  return [make("h3", {}, "Instance"), facts(own.map(([name, value]) => [bdi(name), Array.isArray(value) || value.length > 300 || value.includes("\n") ? textBox(value) : value]))];
}
function answers(found) {
  const box = make("div");
  found.responses.forEach((text, at) => {
    const said = ["response" + (found.responses.length > 1 ? " " + (at + 1) + " of " + found.responses.length : "")];
    if (found.v && found.v[at] != null) said.push("alone " + doc.metric + " " + number(found.v[at]));
    if (found.f && found.f[at] !== "stop") said.push("ended by " + found.f[at]);
    if (found.o) said.push(count(found.o[at], "token"));
    box.append(make("p", {className: "role"}, bdi(said.join(" · "))), textBox(text));
    if (found.k && found.k[at]) box.append(make("p", {className: "role"}, "tool calls"), textBox(JSON.stringify(found.k[at], null, 1)));
  });
  return box;
}
const dialog = byId("dialog");
byId("close").onclick = () => dialog.close();
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
function show(title, ...inside) {
  const head = byId("dialog-h");
  head.replaceChildren(bdi(title));
  byId("dialog-body").replaceChildren(...inside);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  head.focus();
}
async function lookAt(trial, instance) {
  const found = await evaluation(trial, instance), code = codeOf(trial, instance);
  const inside = [about(found, code), ...await fields(instance)];
  if (found) {
    if (found.prompt) {
      inside.push(make("h3", {}, "Prompt"));
      for (const [role, text] of found.prompt) inside.push(make("p", {className: "role"}, bdi(role)), textBox(text));
    }
    inside.push(make("h3", {}, "Responses"), found.responses.length ? answers(found) : make("p", {className: "soft"}, "There are none in the store."));
  } else if (code) inside.push(make("p", {className: "soft"}, "Its prompt and responses are not in this page: see the note below the matrix."));
  inside.push(make("p", {}, lookButton(trial)));
  show(names[instance] + " · " + trialLabel(trial), ...inside);
}
const lookButton = trial => {
  const button = make("button", {type: "button", className: "quiet"}, "configuration " + trialName(trial));
  button.onclick = () => lookInto(trial);
  return button;
};
function copyButton(text) {
  const button = make("button", {type: "button"}, "Copy");
  button.onclick = () => copy(text, button);
  return button;
}
async function copy(text, button) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", {value: text, className: "hidden"});
    button.after(area); area.select(); document.execCommand("copy"); area.remove(); button.focus();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}
function lookInto(trial) {
  const of = doc.trials[trial];
  if (!of) return;
  const text = JSON.stringify(of.config, null, 2), inside = [];
  const row = document.querySelector('#table tr[data-trial="' + trial + '"]');
  if (row) {
    const heads = [...byId("table").tHead.rows[0].cells].map(cell => cell.textContent);
    inside.push(facts([...row.cells].slice(0, 6).map((cell, at) => [heads[at], (cell.querySelector(".value") || cell).textContent])));
    const reason = row.querySelector(".config .small");
    if (reason) inside.push(make("p", {}, reason.textContent));
  }
  inside.push(make("h3", {}, "Settings"), textBox(text), make("p", {}, copyButton(text)));
  if (cells.has(trial)) {
    const against = make("button", {type: "button"}, trial === doc.best ? "Compare with another" : "Compare with the best");
    against.onclick = () => { dialog.close(); compare(trial === doc.best ? null : doc.best, trial); byId("differ").scrollIntoView(); byId("b").focus(); };
    inside.push(make("p", {}, against));
  }
  show(of.label || of.id, ...inside);
}

// The matrix: only what is in view is drawn.
const SIZE = 12, HEAD = 20;
let order = [], cursor = [0, 0], canvas, frame, wide = 150;
function colours() {
  const style = getComputedStyle(root);
  return name => style.getPropertyValue("--" + name).trim();
}
const mixed = (from, to, share) => {
  const part = (text, at) => parseInt(text.slice(at, at + 2), 16);
  return "rgb(" + [1, 3, 5].map(at => Math.round(part(from, at) + (part(to, at) - part(from, at)) * share)).join(" ") + ")";
};
function palette() {
  const colour = colours(), all = [null, colour("missing")], levels = doc.matrix.levels;
  const low = Math.min(...levels), span = Math.max(...levels) - low || 1;
  for (const value of levels) {
    const share = doc.less ? 1 - (value - low) / span : (value - low) / span;
    all.push(binary() ? colour(share > .5 ? "right" : "wrong") : mixed(colour("low"), colour("high"), share));
  }
  return all;
}
function ordered(how) {
  order = names.map((_, at) => at);
  if (how === "asked") return;
  const value = order.map(instance => {
    let n = 0, sum = 0, squares = 0;
    for (const row of cells.values()) if (row[instance] > 1) { const v = gain(level(row[instance])); n++; sum += v; squares += v * v; }
    const mean = n ? sum / n : Infinity;
    return how === "hard" ? mean : n > 1 ? -(squares / n - mean * mean) : 0;
  });
  order.sort((a, b) => value[a] === value[b] ? a - b : value[a] - value[b]);
}
function draw() {
  if (!canvas || !doc) return;
  const box = byId("matrix"), ratio = devicePixelRatio || 1, trials = doc.matrix.trials;
  const width = box.clientWidth, height = Math.min(box.clientHeight, 518);
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  const ink = canvas.getContext("2d"), colour = colours(), fill = palette(), small = binary() ? [false, false, ...doc.matrix.levels.map(value => value === (doc.less ? 1 : 0))] : [];
  ink.scale(ratio, ratio);
  ink.fillStyle = colour("page"); ink.fillRect(0, 0, width, height);
  const left = box.scrollLeft, top = box.scrollTop;
  const firstRow = Math.floor(top / SIZE), lastRow = Math.min(trials.length, Math.ceil((top + height) / SIZE));
  const firstColumn = Math.floor(left / SIZE), lastColumn = Math.min(order.length, Math.ceil((left + width - wide) / SIZE));
  for (let row = firstRow; row < lastRow; row++) {
    const own = cells.get(trials[row]), y = HEAD + row * SIZE - top;
    for (let column = firstColumn; column < lastColumn; column++) {
      const code = own[order[column]];
      if (!code) continue;
      // Wrong ones are smaller too: not everybody sees the colours.
      const inset = small[code] ? 2.5 : 0;
      ink.fillStyle = fill[code];
      ink.fillRect(wide + column * SIZE - left + inset, y + inset, SIZE - 1 - 2 * inset, SIZE - 1 - 2 * inset);
      if (code === 1) { ink.fillStyle = colour("card"); ink.fillRect(wide + column * SIZE - left + 2, y + SIZE / 2 - 1.5, SIZE - 5, 2); }
    }
  }
  const [row, column] = cursor;
  if (document.activeElement === box || cursor.pointed) {
    ink.strokeStyle = colour("ink"); ink.lineWidth = 2;
    ink.strokeRect(wide + column * SIZE - left - 1, HEAD + row * SIZE - top - 1, SIZE + 1, SIZE + 1);
  }
  ink.fillStyle = colour("page"); ink.fillRect(0, 0, wide - 4, height); ink.fillRect(0, 0, width, HEAD - 3);
  ink.font = "11px system-ui, sans-serif"; ink.textBaseline = "middle";
  for (let row = firstRow; row < lastRow; row++) {
    const y = HEAD + row * SIZE - top + SIZE / 2;
    if (y < HEAD) continue;
    ink.fillStyle = row === cursor[0] ? colour("ink") : trials[row] === doc.best ? colour("green") : trials[row] === doc.baseline ? colour("orange") : colour("soft");
    const note = trials[row] === doc.best ? " best" : trials[row] === doc.baseline ? " baseline" : "";
    ink.fillText(trialName(trials[row]) + note, 6, y, wide - 12);
  }
  ink.fillStyle = colour("soft");
  ink.fillText(count(trials.length, "configuration") + " × " + count(order.length, "instance"), 6, HEAD / 2);
}
const redraw = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
function say() {
  const trial = doc.matrix.trials[cursor[0]], instance = order[cursor[1]];
  byId("matrix-status").replaceChildren(bdi(trialLabel(trial)), " on ", bdi(names[instance]), ": ", bdi(scoreText(codeOf(trial, instance))));
}
function cellAt(event) {
  const box = byId("matrix"), at = box.getBoundingClientRect();
  const column = Math.floor((event.clientX - at.left - box.clientLeft + box.scrollLeft - wide) / SIZE), row = Math.floor((event.clientY - at.top - box.clientTop + box.scrollTop - HEAD) / SIZE);
  return row >= 0 && column >= 0 && row < doc.matrix.trials.length && column < order.length && event.clientX - at.left > wide ? [row, column] : null;
}
async function matrix() {
  if (!byId("matrix") || !doc.matrix.trials.length) return;
  names = await json("names");
  cells = new Map();
  for (let part = 0; part < doc.matrix.parts; part++) {
    const bytes = await block("m" + part);
    doc.matrix.trials.slice(part * doc.matrix.rows, (part + 1) * doc.matrix.rows).forEach((trial, row) => cells.set(trial, bytes.subarray(row * names.length, (row + 1) * names.length)));
  }
  const box = byId("matrix"), room = byId("matrix-room");
  canvas = byId("matrix-canvas");
  wide = box.clientWidth < 500 ? 104 : 150;
  ordered(byId("order").value);
  const full = wide + order.length * SIZE, tall = HEAD + doc.matrix.trials.length * SIZE;
  room.style.width = Math.max(full, box.clientWidth - 2) + "px"; room.style.height = tall + "px";
  box.style.height = Math.min(tall + 18, 520) + "px";
  const legend = byId("legend"), swatch = (kind, text) => make("span", {}, make("i", {className: "swatch " + kind}), text);
  const levels = doc.matrix.levels, ends = [Math.min(...levels), Math.max(...levels)].map(number);
  legend.replaceChildren(...(binary() ? [swatch("right", doc.less ? "0" : "1"), swatch("wrong", doc.less ? "1" : "0")] : [swatch("ramp", (doc.less ? ends.reverse() : ends).join(" to "))]), swatch("gone", "missing"), swatch("blank", "not asked"));
  if (doc.matrix.left) legend.append(make("span", {}, count(doc.matrix.left, "configuration") + " more are in the observations' file"));
  byId("order").onchange = () => { ordered(byId("order").value); draw(); say(); };
  box.onscroll = redraw;
  box.onfocus = () => { draw(); say(); };
  box.onblur = draw;
  box.onpointermove = event => { const cell = cellAt(event); if (cell) { cursor = cell; cursor.pointed = true; redraw(); say(); } };
  box.onclick = event => { const cell = cellAt(event); if (cell) { cursor = cell; lookAt(doc.matrix.trials[cell[0]], order[cell[1]]); } };
  box.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-20, 0], PageDown: [20, 0], Home: [0, -order.length], End: [0, order.length]}[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); lookAt(doc.matrix.trials[cursor[0]], order[cursor[1]]); return; }
    if (!step) return;
    event.preventDefault();
    const within = (value, most) => Math.max(0, Math.min(most - 1, value));
    cursor = [within(cursor[0] + step[0], doc.matrix.trials.length), within(cursor[1] + step[1], order.length)];
    const x = wide + cursor[1] * SIZE, y = HEAD + cursor[0] * SIZE;
    if (x - wide < box.scrollLeft) box.scrollLeft = x - wide; else if (x + SIZE > box.scrollLeft + box.clientWidth) box.scrollLeft = x + 2 * SIZE - box.clientWidth;
    if (y - HEAD < box.scrollTop) box.scrollTop = y - HEAD; else if (y + SIZE > box.scrollTop + box.clientHeight) box.scrollTop = y + 2 * SIZE - box.clientHeight;
    redraw(); say();
  };
  draw();
}
addEventListener("resize", redraw);

// Where two differ.
let shownPair = null, kind = null, page = 0;
const PAGE = 20;
function kinds() {
  return binary() ? [["only A right", (a, b) => gain(a) > gain(b)], ["only B right", (a, b) => gain(a) < gain(b)], ["both right", (a, b) => a === b && a === (doc.less ? 0 : 1)], ["both wrong", (a, b) => a === b && a === (doc.less ? 1 : 0)]]
    : [["A better", (a, b) => gain(a) > gain(b)], ["B better", (a, b) => gain(a) < gain(b)], ["equal", (a, b) => a === b]];
}
function compare(first, second) {
  const a = byId("a"), b = byId("b");
  if (first != null) a.value = first;
  if (second != null) b.value = second;
  const one = Number(a.value), two = Number(b.value), groups = kinds().map(([name, fits]) => [name, fits, []]);
  let apart = 0, both = 0;
  const x = cells.get(one), y = cells.get(two), alone = ["answered by one only", null, []];
  for (const instance of names.keys()) {
    const [p, q] = [x[instance], y[instance]];
    if (p > 1 && q > 1) { both++; apart += level(p) - level(q); groups.find(([, fits]) => fits(level(p), level(q)))?.[2].push(instance); }
    else if (p > 1 || q > 1) alone[2].push(instance);
  }
  groups.push(alone);
  if (!both) byId("pairs").replaceChildren(make("p", {className: "soft"}, "No instance was judged for both."));
  const buttons = groups.map(([name, , all], at) => {
    const button = make("button", {type: "button", "aria-pressed": "false"}, name + ": " + all.length.toLocaleString("en"));
    button.onclick = () => { kind = at; page = 0; list(); };
    return button;
  });
  const mean = both ? "A " + (apart >= 0 ? "+" : "") + number(apart / both) + " on the " + count(both, "instance") + " that both answered" : "";
  byId("counts").replaceChildren(...buttons, make("span", {className: "soft small"}, mean));
  const list = () => {
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", at === kind));
    const all = groups[kind][2], part = all.slice(page * PAGE, (page + 1) * PAGE), box = make("p");
    for (const instance of part) {
      const button = make("button", {type: "button", className: "quiet"}, bdi(names[instance]));
      button.onclick = () => { box.querySelectorAll("button").forEach(other => other.removeAttribute("aria-pressed")); button.setAttribute("aria-pressed", "true"); side(one, two, instance); };
      box.append(button, " ");
    }
    if (!part.length) box.append("None.");
    const move = (by, text) => { const button = make("button", {type: "button"}, text); button.onclick = () => { page += by; list(); }; return button; };
    const around = all.length > PAGE ? make("p", {}, page ? move(-1, "Earlier") : null, " ", (page + 1) * PAGE < all.length ? move(1, "Later") : null, make("span", {className: "soft small"}, " " + (page * PAGE + 1) + " to " + Math.min(all.length, (page + 1) * PAGE) + " of " + all.length.toLocaleString("en"))) : null;
    if (both || all.length) byId("pairs").replaceChildren(box, ...(around ? [around] : []));
    byId("side").replaceChildren();
  };
  if (kind == null || kind >= groups.length) kind = 0;
  page = 0;
  shownPair = [one, two];
  list();
}
// Words that changed, by the longest common subsequence between equal beginnings and ends.
function words(a, b) {
  const split = text => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
  const x = split(a), y = split(b);
  let start = 0, endX = x.length, endY = y.length;
  while (start < endX && start < endY && x[start] === y[start]) start++;
  while (endX > start && endY > start && x[endX - 1] === y[endY - 1]) { endX--; endY--; }
  const rows = endX - start, columns = endY - start, marksX = new Uint8Array(x.length), marksY = new Uint8Array(y.length);
  if (rows * columns > 4e6) { marksX.fill(1, start, endX); marksY.fill(1, start, endY); } else {
    const table = new Uint16Array((rows + 1) * (columns + 1));
    for (let i = rows - 1; i >= 0; i--) for (let j = columns - 1; j >= 0; j--)
      table[i * (columns + 1) + j] = x[start + i] === y[start + j] ? table[(i + 1) * (columns + 1) + j + 1] + 1 : Math.max(table[(i + 1) * (columns + 1) + j], table[i * (columns + 1) + j + 1]);
    let i = 0, j = 0;
    while (i < rows || j < columns) {
      if (i < rows && j < columns && x[start + i] === y[start + j]) { i++; j++; }
      else if (j >= columns || (i < rows && table[(i + 1) * (columns + 1) + j] >= table[i * (columns + 1) + j + 1])) marksX[start + i++] = 1;
      else marksY[start + j++] = 1;
    }
  }
  const parts = (tokens, marks) => {
    const all = [];
    tokens.forEach((token, at) => { const last = all[all.length - 1]; if (last && last[1] === marks[at]) last[0] += token; else all.push([token, marks[at]]); });
    return all;
  };
  return [parts(x, marksX), parts(y, marksY)];
}
function diffBox(parts, tag) {
  const pre = make("pre", {dir: "auto", tabIndex: 0});
  let room = CUT * 2, whole = true;
  for (const [text, marked] of parts) {
    const shown = text.slice(0, room);
    write(marked ? pre.appendChild(make(tag)) : pre, shown);
    room -= shown.length;
    if (room <= 0) { whole = false; break; }
  }
  if (whole) return pre;
  const all = make("button", {type: "button"}, "Show all");
  all.onclick = () => { pre.textContent = ""; for (const [text, marked] of parts) write(marked ? pre.appendChild(make(tag)) : pre, text); all.remove(); pre.focus(); };
  return make("div", {}, pre, make("p", {}, all));
}
async function side(one, two, instance) {
  const found = [await evaluation(one, instance), await evaluation(two, instance)];
  const columns = [make("div"), make("div")], trials = [one, two];
  columns.forEach((column, at) => column.append(make("h3", {}, "AB"[at] + " · ", bdi(trialLabel(trials[at]))), about(found[at], codeOf(trials[at], instance))));
  const both = (names, a, b, always) => {
    const parts = words(plain(a ?? ""), plain(b ?? ""));
    [a, b].forEach((text, at) => {
      if (text != null) columns[at].append(make("p", {className: "role"}, bdi(names[at])), diffBox(parts[at], at ? "ins" : "del"));
      else if (always && found[at]) columns[at].append(make("p", {className: "soft"}, "There is no response."));
    });
  };
  const at = (found, list) => found ? list(found) || [] : [];
  const prompts = found.map(one => at(one, of => of.prompt)), responses = found.map(one => at(one, of => of.responses));
  // Conversations end alike: the question is last, however many examples come before it.
  const most = Math.max(...prompts.map(all => all.length));
  const [p, q] = prompts.map(all => [...Array(most - all.length).fill(null), ...all]);
  for (let n = 0; n < most; n++) both(["prompt: " + p[n]?.[0], "prompt: " + q[n]?.[0]], p[n]?.[1], q[n]?.[1]);
  for (let n = 0; n < Math.max(responses[0].length, responses[1].length, 1); n++) both(["response " + (n + 1), "response " + (n + 1)], responses[0][n], responses[1][n], n === 0);
  const gap = found.some(one => !one) ? make("p", {className: "soft"}, "What is not in this page is in the store: see the note below the matrix.") : null;
  byId("side").replaceChildren(make("h3", {}, bdi(names[instance])), ...await fields(instance), make("div", {className: "sides"}, ...columns), ...(gap ? [gap] : []));
}
function differ() {
  if (!byId("differ") || cells.size < 2) { byId("differ-part")?.replaceChildren(make("p", {className: "soft"}, "There are no two configurations to compare.")); return; }
  for (const [id, initial] of [["a", doc.best], ["b", doc.baseline]]) {
    const select = byId(id), was = select.value;
    select.replaceChildren(...doc.matrix.trials.map(trial => make("option", {value: trial}, write(make("span"), trialLabel(trial)).textContent)));
    select.value = was || (initial != null && cells.has(initial) ? initial : doc.matrix.trials[0]);
    select.onchange = () => compare();
  }
  if (byId("a").value === byId("b").value) byId("b").value = doc.matrix.trials.find(trial => String(trial) !== byId("a").value);
  compare();
}

function buttons() {
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(byId(button.dataset.copy).textContent, button);
  for (const button of document.querySelectorAll("[data-look]")) button.onclick = () => lookInto(Number(button.dataset.look));
  for (const button of document.querySelectorAll("[data-cell]")) button.onclick = () => lookAt(...button.dataset.cell.split(" ").map(Number));
}
async function begin() {
  const script = byId("document");
  doc = script && JSON.parse(script.textContent);
  ranking();
  buttons();
  if (!doc || !doc.matrix) return;
  await matrix();
  differ();
}

// While the run goes on: what changed is taken over from the page as the server has it now.
function live(events) {
  let due = false, busy = false;
  const refresh = async () => {
    if (busy) { due = true; return; }
    busy = true;
    try {
      const fresh = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
      const open = [...document.querySelectorAll("details")].map(one => one.open), sorted = document.querySelector("#table th[aria-sort]");
      const column = sorted && [...sorted.parentNode.cells].indexOf(sorted), way = sorted?.getAttribute("aria-sort");
      const find = byId("find")?.value, standing = byId("standing")?.value;
      for (const part of fresh.querySelectorAll("[data-live-part]")) {
        const old = byId(part.id);
        if (old) old.replaceChildren(...part.childNodes);
        else {
          const after = [...fresh.querySelectorAll("main > section[id]")].map(one => one.id);
          const next = after.slice(after.indexOf(part.id) + 1).map(byId).find(Boolean);
          next ? next.before(part) : byId("main").append(part);
        }
      }
      byId("document").textContent = fresh.getElementById("document").textContent;
      document.querySelectorAll("script[data-block]").forEach(one => one.remove());
      document.body.append(...fresh.querySelectorAll("script[data-block]"));
      unpacked.clear();
      document.querySelectorAll("details").forEach((one, at) => { one.open = open[at] ?? one.open; });
      if (byId("find") && find != null) { byId("find").value = find; byId("standing").value = standing; }
      await begin();
      const header = column != null && byId("table")?.tHead.rows[0].cells[column];
      if (header && (column || way !== "ascending")) { const button = header.querySelector("button"); for (let n = 0; n < 2 && header.getAttribute("aria-sort") !== way; n++) button.click(); }
    } catch (error) { console.warn("the page could not be brought up to date", error.message); }
    busy = false;
    if (due) { due = false; refresh(); }
  };
  const source = new EventSource(events);
  source.onmessage = refresh;
  source.addEventListener("end", () => { source.close(); refresh(); });
}
begin().then(() => { root.dataset.ready = ""; if (document.body.dataset.live) live(document.body.dataset.live); });
})();
