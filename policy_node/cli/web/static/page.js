// Copyright 2026 The policy_node authors
// SPDX-License-Identifier: Apache-2.0
// Shows the messages of policy_node/cli/web/feed.py, and sends what the buttons ask for.

const SILENT_S = 3; // Nodes report every second.
const LOST_S = 2; // The server sends every 0.2 s.
const COMMANDS_S = 30;
const TICKS_S = 60;
const TIMELINE_S = [60, 300]; // Least and most that is shown.
const LABELS_PX = 90;
const EVENTS = 200;
const NAMED_COMPONENTS = 6; // More have bars without names.
const LINES = 8; // Most components in a plot.
const DRAW_MS = 250;
const PLOT_MS = 500;
const COLOURS = ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#9a6700", "#0a7ea4", "#bf3989"];
const STAGES = ["take", "select", "stage", "infer", "guard", "publish"];
const STATES = ["READY", "WAITING", "STALE", "REJECTED", "FAULT", "STOPPED"];
const ASK = {
  resume: (whom) => `Let the policy drive ${whom} again? It moves at once if its data are good.`,
  reset: (whom) => `Restart the histories and memories of ${whom}?`,
  swap: (whom) => `Replace the policy of ${whom} while it drives?`,
};

const byId = (id) => document.getElementById(id);
const nodes = new Map();
const link = { heardAt: -Infinity, serverT: 0, opened: false };
const visible = new Set();
const watchVisible = new IntersectionObserver((entries) => {
  for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target);
}, { rootMargin: "100px" });

const serverNow = () => link.serverT + (performance.now() - link.heardAt) / 1000;
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const setData = (element, name, value) => { if (element.dataset[name] !== value) element.dataset[name] = value; };
const figure = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const naturally = new Intl.Collator("en", { numeric: true }).compare;

/* A node and its robots */

function nodeOf(name) {
  if (nodes.has(name)) return nodes.get(name);
  const element = byId("node").content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  setText(find("h2"), `/${name}`);
  element.setAttribute("aria-label", `/${name}`);
  const node = {
    name, element, find, robots: new Map(), events: [], t: -Infinity, previewT: -Infinity, level: "STALE", message: "",
    values: {}, ticks: [[], [], []], ages: [], description: {},
  };
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button) request(button.dataset.action, [node], button.closest(".robot")?.dataset.name ?? "");
  });
  const after = [...nodes.values()].find((other) => naturally(other.name, name) > 0);
  byId("nodes").insertBefore(element, after?.element ?? null);
  nodes.set(name, node);
  return node;
}

function robotOf(node, name) {
  if (node.robots.has(name)) return node.robots.get(name);
  const element = byId("robot").content.firstElementChild.cloneNode(true);
  setText(element.querySelector("h3"), name);
  element.dataset.name = name;
  element.setAttribute("aria-label", name);
  for (const button of element.querySelectorAll("button")) {
    button.setAttribute("aria-label", `${button.textContent.replace("…", "")} ${name}`);
  }
  const robot = {
    name, element, find: (selector) => element.querySelector(selector), state: "", reason: "", values: {}, ageMs: NaN,
    command: null, commands: [], images: new Map(), bars: [], plot: null, changed: true,
    stateText: element.querySelector(".state"), reasonText: element.querySelector(".reason"),
  };
  const after = [...node.robots.values()].find((other) => naturally(other.name, name) > 0);
  node.find(".robots").insertBefore(element, after?.element ?? null);
  watchVisible.observe(element);
  node.robots.set(name, robot);
  node.robots = new Map([...node.robots].sort(([first], [second]) => naturally(first, second)));
  return robot;
}

function forgetRobots(node) {
  for (const robot of node.robots.values()) {
    watchVisible.unobserve(robot.element);
    visible.delete(robot.element);
    robot.plot?.destroy();
    robot.element.remove();
  }
  node.robots.clear();
}

/* Messages */

const receive = {
  status(node, message) {
    if (message.part === "control") {
      Object.assign(node, { t: message.t, level: message.level, message: message.message, values: message.values });
      if (message.values.lifecycle_state !== "active") forgetRobots(node);
      return;
    }
    if (node.values.lifecycle_state !== "active") return;
    const robot = robotOf(node, message.part);
    robot.values = message.values;
    robot.changed = true;
    // The preview is newer, unless the node hangs.
    if (message.t - node.previewT > 1) {
      Object.assign(robot, { state: message.values.state, ageMs: message.values.age_at_command_ms });
    }
    robot.reason = message.values.reason || (message.level === "OK" ? "" : message.message);
  },
  preview(node, message) {
    if (node.values.lifecycle_state !== "active") return;
    node.previewT = message.t;
    node.description = { components: message.components, low: message.low, high: message.high };
    message.robots.forEach((name, index) => {
      const robot = robotOf(node, name);
      Object.assign(robot, { state: message.states[index], ageMs: message.ages_ms[index], changed: true });
      if (message.states[index] !== "READY") robot.reason = message.reasons[index] ?? "";
      else if (robot.values.state !== "READY") robot.reason = "";
      robot.command = message.commands[index];
      robot.commands.push([message.t, robot.command]);
      for (const [key, image] of Object.entries(message.images[name] ?? {})) showImage(robot, key, image);
    });
  },
  timing(node, message) {
    node.ticks[0].push(...message.ticks);
    node.ticks[1].push(...message.lateness);
    node.ticks[2].push(...message.duration);
    node.ages.push(...message.age);
    node.ticksChanged = true;
  },
  gone(node) {
    forgetRobots(node);
    node.element.remove();
    nodes.delete(node.name);
  },
  event(node, message) {
    node.events.push(message);
    if (node.events.length > 5000) node.events.splice(0, 1000);
    node.eventsChanged = true;
  },
};

function showImage(robot, key, image) {
  if (!robot.images.has(key)) {
    const element = document.createElement("img");
    element.alt = `${key} of ${robot.name}, as the policy sees it`;
    element.title = key;
    robot.find(".images").append(element);
    robot.images.set(key, element);
  }
  robot.images.get(key).src = `data:image/jpeg;base64,${image}`;
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/messages`);
  socket.onopen = () => {
    // The server sends what a page must know; what it had before may have gaps.
    for (const node of nodes.values()) { forgetRobots(node); node.element.remove(); }
    nodes.clear();
  };
  socket.onmessage = (event) => {
    const { t, why_nothing: why, messages } = JSON.parse(event.data);
    Object.assign(link, { heardAt: performance.now(), serverT: t });
    byId("nothing").hidden = !why;
    setText(byId("nothing"), why);
    for (const message of messages) receive[message.kind](nodeOf(message.node), message);
  };
  socket.onclose = () => setTimeout(connect, 500);
}

/* What the buttons ask for */

async function request(action, whom, robot) {
  if (!whom.length) return showAnswer("no node is known", true);
  const names = robot || whom.map((node) => `all robots of /${node.name}`).join(", ");
  let path = "";
  if (action in ASK && !(action === "reset" && robot)) {
    path = await asked(action, names, whom[0]);
    if (path === null) return null;
  }
  const answers = await Promise.all(whom.map((node) => act({ node: node.name, action, robot, path })));
  const failed = answers.some((answer) => !answer.done);
  const text = answers.map((answer, index) => `/${whom[index].name}: ${answer.answer}`).join("\n");
  return showAnswer(text, failed);
}

async function act(wish) {
  try {
    const response = await fetch("act", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish),
    });
    return response.ok ? await response.json() : { done: false, answer: await response.text() };
  } catch (error) {
    return { done: false, answer: `policy_monitor is not reached (${error.message}): to stop robots, use their emergency stop` };
  }
}

function asked(action, names, node) {
  const dialog = byId("ask");
  setText(dialog.querySelector("p"), ASK[action](names));
  setText(dialog.querySelector(".yes"), { resume: "Resume", reset: "Reset", swap: "Swap" }[action]);
  const label = dialog.querySelector("label");
  label.hidden = action !== "swap";
  const input = label.querySelector("input");
  input.value = node.values.policy ?? "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener(
    "close", () => resolve(dialog.returnValue === "yes" ? input.value : null), { once: true },
  ));
}

function showAnswer(text, failed) {
  const answer = byId("answer");
  answer.hidden = false;
  answer.classList.toggle("failed", failed);
  setText(answer, text);
  clearTimeout(showAnswer.timer);
  if (!failed) showAnswer.timer = setTimeout(() => { answer.hidden = true; }, 8000);
}

byId("stop-all").addEventListener("click", () => request("stop", [...nodes.values()], ""));
byId("resume-all").addEventListener("click", () => request("resume", [...nodes.values()], ""));
document.addEventListener("keydown", (event) => {
  const isText = event.target.closest("input");
  if (event.key.toLowerCase() !== "s" || isText || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (!event.repeat) request("stop", [...nodes.values()], "");
});
// Enter in the field of a dialog swaps, rather than cancels.
byId("ask").querySelector("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); byId("ask").close("yes"); }
});

/* Drawing */

function draw() {
  const silentS = (performance.now() - link.heardAt) / 1000;
  const lost = silentS > LOST_S;
  byId("old").hidden = !lost;
  if (lost) {
    setText(byId("old"), Number.isFinite(silentS)
      ? `Connection lost: what is shown is ${silentS.toFixed(0)} s old. Connecting again …` : "Connecting …");
  }
  let ready = 0;
  let all = 0;
  for (const node of nodes.values()) {
    drawNode(node, lost);
    for (const robot of node.robots.values()) {
      all += 1;
      ready += robot.state === "READY" && !node.isOld;
      drawState(robot);
      if (robot.changed && visible.has(robot.element)) drawRobot(node, robot);
    }
  }
  setText(byId("summary"), lost ? "" : `${ready} of ${all} robots driven by ${nodes.size} ${nodes.size === 1 ? "node" : "nodes"}`);
  document.title = lost ? "Fleet (connection lost)" : `Fleet: ${ready} of ${all}`;
}

function drawNode(node, lost) {
  const silentS = serverNow() - node.t;
  node.isOld = lost || silentS > SILENT_S;
  node.element.classList.toggle("is-old", node.isOld);
  setData(node.element, "level", node.isOld ? "ERROR" : node.level);
  setText(node.find(".level"), node.isOld ? "OLD" : node.level);
  setText(node.find(".message"), node.message);
  const alarm = node.find(".alarm");
  alarm.hidden = lost || silentS <= SILENT_S;
  if (!alarm.hidden) setText(alarm, `No message from this node for ${silentS.toFixed(0)} s: what is shown is old.`);
  const values = node.values;
  const active = values.lifecycle_state === "active";
  node.find(".about").hidden = node.find(".history").hidden = !active;
  if (!active) return;
  setText(node.find(".about .figures"), [
    `${figure(values.rate_hz)} of ${figure(values.control_rate_hz)} Hz`,
    `${values.missed_ticks} of ${values.ticks} ticks missed`,
    `${figure(values.inferences_per_s, 0)} inferences/s`,
    `${values.engine ?? "policy"} on ${values.device}`,
    `CPU ${figure(values.cpu_percent, 0)} %, ${figure(values.rss_mb, 0)} MB`,
    `policy ${values.policy}, SHA-256 ${String(values.policy_sha256).slice(0, 12)}…`,
  ].join(" · "));
  setText(node.find(".problems"), Object.entries(values)
    .filter(([key]) => /_(lost|late|mixed|offset|repeated|also_commanded_by|unheard|error|slow)$/.test(key))
    .map(([, text]) => text).join("\n"));
  drawStages(node);
}

function drawStages(node) {
  if (node.drawnValues === node.values) return;
  node.drawnValues = node.values;
  const rows = ["lateness", "tick", ...STAGES, "stamp_to_command"].filter((name) => `${name}_ms_p50` in node.values);
  node.find(".stages").replaceChildren(...rows.map((name) => {
    const row = document.createElement("tr");
    row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: name.replaceAll("_", " ") }));
    for (const part of ["p50", "p99"]) {
      row.append(Object.assign(document.createElement("td"), { textContent: figure(node.values[`${name}_ms_${part}`], 2) }));
    }
    return row;
  }));
}

function drawState(robot) {
  setData(robot.element, "state", robot.state);
  setText(robot.stateText, robot.state);
  setText(robot.reasonText, robot.reason);
}

function drawRobot(node, robot) {
  robot.changed = false;
  const { values } = robot;
  const rates = Object.entries(values).filter(([key]) => key.endsWith("_hz"));
  setText(robot.find(".figures"), [
    `age ${figure(robot.ageMs ?? NaN, 0)} ms`,
    ...("driven_percent" in values ? [`driven ${figure(values.driven_percent, 0)} %`] : []),
    ...rates.map(([key, rate]) => `${key.replace("_hz", "")} ${figure(rate, 0)} Hz`),
    ...["rejected", "bounded", "slowed"].filter((key) => values[key] > 0).map((key) => `${key} ${values[key]}`),
  ].join(" · "));
  drawBars(node, robot);
}

function drawBars(node, robot) {
  const { components = [], low, high } = node.description;
  const many = components.length > NAMED_COMPONENTS;
  if (robot.bars.length !== components.length || robot.barsOf !== components.join()) {
    robot.barsOf = components.join();
    const bars = robot.find(".bars");
    bars.classList.toggle("many", many);
    bars.replaceChildren();
    robot.bars = components.map((name) => {
      const bar = Object.assign(document.createElement("div"), { className: "bar", title: name });
      const fill = document.createElement("i");
      const output = document.createElement("output");
      bar.append(fill);
      bars.append(...(many ? [bar] : [Object.assign(document.createElement("span"), { textContent: name }), bar, output]));
      return { fill, output, largest: 0 };
    });
  }
  robot.bars.forEach((bar, index) => {
    const value = robot.command?.[index] ?? NaN;
    if (Number.isFinite(value)) bar.largest = Math.max(bar.largest, Math.abs(value));
    const least = Math.min(low[index] ?? -bar.largest, 0);
    const range = Math.max(high[index] ?? bar.largest, 0) - least || 1;
    const place = (number) => Math.min(100, Math.max(0, 100 * (number - least) / range));
    const [from, to] = Number.isFinite(value) ? [place(Math.min(value, 0)), place(Math.max(value, 0))] : [0, 0];
    bar.fill.style.left = `${from}%`;
    bar.fill.style.width = `${to - from}%`;
    setText(bar.output, figure(value, 3));
  });
}

/* Plots */

const axis = { stroke: "#8a94a0", grid: { stroke: "#8a94a033" }, ticks: { show: false }, font: "11px system-ui", size: 40 };

function plot(holder, labels, height, axes) {
  if (!window.uPlot) return null;
  return new window.uPlot({
    width: Math.max(50, holder.clientWidth), height, cursor: { show: false }, legend: { show: axes && labels.length > 1 },
    scales: { x: { time: false } },
    axes: axes ? [{ ...axis, size: 24, values: (_, ticks) => ticks.map((tick) => `${tick} s`) }, axis] : [{ show: false }, { show: false }],
    series: [{}, ...labels.map((label, index) => ({
      label, stroke: COLOURS[index % COLOURS.length], width: 1, points: { show: false }, spanGaps: false, value: (_, value) => figure(value ?? NaN, 2),
    }))],
  }, [[], ...labels.map(() => [])], holder);
}

function resized(made, holder) {
  const width = Math.max(50, holder.clientWidth);
  if (made.width !== width) made.setSize({ width, height: made.height });
}

function forget(node, now) {
  const gone = node.ticks[0].findIndex((t) => t >= now - TICKS_S);
  for (const column of [...node.ticks, node.ages]) column.splice(0, gone < 0 ? column.length : gone);
  for (const { commands } of node.robots.values()) {
    const first = commands.findIndex(([t]) => t >= now - COMMANDS_S);
    commands.splice(0, first < 0 ? commands.length : first);
  }
}

function drawPlots() {
  const now = serverNow();
  for (const node of nodes.values()) {
    if (node.isOld) continue;
    forget(node, now);
    if (document.hidden || node.values.lifecycle_state !== "active") continue;
    drawTicks(node, now);
    for (const robot of node.robots.values()) {
      if (visible.has(robot.element)) drawCommands(node, robot, now);
    }
    drawTimeline(node, now);
    drawEvents(node);
  }
}

function drawTicks(node, now) {
  const [times, lateness, duration] = node.ticks;
  if (!node.ticksChanged || !node.find(".about").open) return;
  node.ticksChanged = false;
  const x = times.map((t) => t - now);
  node.ticksPlot ??= plot(node.find(".ticks"), ["lateness", "tick"], 140, true);
  node.agesPlot ??= plot(node.find(".ages"), ["age"], 140, true);
  if (!node.ticksPlot) return;
  resized(node.ticksPlot, node.find(".ticks"));
  resized(node.agesPlot, node.find(".ages"));
  node.ticksPlot.setData([x, lateness, duration]);
  node.agesPlot.setData([x, node.ages]);
}

function drawCommands(node, robot, now) {
  const { components = [] } = node.description;
  const lines = Math.min(components.length, LINES);
  if (!lines || robot.commands.length < 2) return;
  if (robot.plot && robot.plot.series.length !== lines + 1) { robot.plot.destroy(); robot.plot = null; }
  const holder = robot.find(".commands");
  robot.plot ??= plot(holder, components.slice(0, lines), 48, false);
  if (!robot.plot) return;
  resized(robot.plot, holder);
  const columns = Array.from({ length: lines }, (_, index) => robot.commands.map(([, command]) => command?.[index] ?? null));
  robot.plot.setData([robot.commands.map(([t]) => t - now), ...columns], false);
  robot.plot.setScale("x", { min: -COMMANDS_S, max: 0 });
}

function colourOf(state) {
  // The colours of the style sheet depend on whether the page is dark.
  byId("colour").style.color = `var(--${STATES.includes(state) ? state : "quiet"})`;
  return getComputedStyle(byId("colour")).color;
}

function drawTimeline(node, now) {
  const canvas = node.find(".timeline");
  if (!node.find(".history").open) return;
  const names = [...node.robots.keys()];
  const rowHeight = names.length > 16 ? 6 : 16;
  const [width, height] = [canvas.clientWidth, rowHeight * names.length];
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const begun = new Map();
  const labels = rowHeight > 12 ? LABELS_PX : 0;
  const shownS = Math.min(TIMELINE_S[1], Math.max(TIMELINE_S[0], now - (node.events[0]?.t ?? now)));
  const place = (t) => labels + (width - labels) * Math.max(0, 1 - (now - t) / shownS);
  const segment = (row, from, to, state) => {
    pen.fillStyle = colourOf(state);
    pen.fillRect(place(from), row * rowHeight + 1, Math.max(1, place(to) - place(from)), rowHeight - 2);
  };
  const rows = new Map(names.map((name, row) => [name, row]));
  for (const event of node.events) {
    if (!rows.has(event.part)) continue;
    const before = begun.get(event.part);
    if (before && event.t > now - shownS) segment(rows.get(event.part), before.t, event.t, before.state);
    begun.set(event.part, event);
  }
  for (const [name, event] of begun) segment(rows.get(name), event.t, now, event.state);
  if (!labels) return;
  pen.font = "11px system-ui";
  pen.fillStyle = colourOf("");
  names.forEach((name, row) => pen.fillText(name, 0, row * rowHeight + rowHeight - 4, labels - 6));
}

function drawEvents(node) {
  if (!node.eventsChanged) return;
  node.eventsChanged = false;
  node.find(".events").replaceChildren(...node.events.slice(-EVENTS).reverse().map((event) => {
    const time = new Date(event.t * 1000).toLocaleTimeString();
    const whom = event.part === "control" ? `/${node.name}` : event.part;
    const reason = event.reason ? `: ${event.reason}` : "";
    return Object.assign(document.createElement("li"), { textContent: `${time} ${whom} ${event.state}${reason}` });
  }));
}

connect();
setInterval(draw, DRAW_MS);
setInterval(drawPlots, PLOT_MS);
