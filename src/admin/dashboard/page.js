"use strict";

// Names and evidence come from configurations and from nodes: they reach the page as text, never as markup.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  for (const child of children) made.append(child);
  return made;
}

const percent = (share) => `${(share * 100).toFixed(2)} %`;
const seconds = (value) => (value < 90 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(1)} min`);
const time = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19);

function tone(node) {
  if (node.order !== null) return "other";
  if (node.placement === "held" || node.health === "ejected") return "bad";
  if (node.placement !== "owns" || node.health !== "healthy" || node.misconfigured || node.slow || node.refuses_writes) return "doubt";
  return "well";
}

const WAITS = {
  budget: "waits for the warmth budget",
  hold_down: "its keys wait for its return",
  flaps: "it comes and goes",
  leftovers: "its keys wait until what others have of them is gone",
  ttl: "waits until what it has has expired",
  cleaning: "waits until its old keys are deleted",
  word: "durable, and back without a key: waits for ringway restore",
};

function remarks(node) {
  const all = [];
  if (node.order !== null) all.push(`by order: ${node.order}`);
  if (node.placement === "starting") all.push(`with ${percent(node.admitted)} of its keys`);
  if (node.wait !== null) {
    const due = node.wait.due_s === null ? "" : `, next in ${seconds(node.wait.due_s)}`;
    all.push(`${WAITS[node.wait.reason] ?? node.wait.reason}${due}`);
  }
  if (node.misconfigured) all.push(node.misconfigured);
  if (node.refuses_writes && !node.misconfigured) all.push(node.refuses_writes);
  if (node.slow) all.push(node.slow);
  return all.join("; ");
}

// What counters were at the last look, by pool and node.
let before = new Map();

function rates(text, now) {
  const counts = new Map();
  for (const line of text.split("\n")) {
    const found = /^(ringway_node_requests_total|ringway_node_misses_total)\{(.*)\} ([0-9.e+]+)$/.exec(line);
    if (!found) continue;
    const label = (name) => new RegExp(`(?:^|,)${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(found[2])?.[1] ?? "";
    const key = JSON.stringify([label("pool"), label("node")]);
    const count = counts.get(key) ?? { requests: 0, reads: 0, misses: 0 };
    if (found[1] === "ringway_node_misses_total") count.misses += Number(found[3]);
    else {
      count.requests += Number(found[3]);
      if (label("class") === "read" && label("outcome") === "ok") count.reads += Number(found[3]);
    }
    counts.set(key, count);
  }
  const shown = new Map();
  for (const [key, count] of counts) {
    const last = before.get(key);
    if (!last) continue;
    const reads = count.reads - last.reads;
    shown.set(key, {
      requests: ((count.requests - last.requests) * 1000) / (now - before.at),
      hits: reads > 0 ? 1 - Math.min(1, (count.misses - last.misses) / reads) : null,
    });
  }
  before = counts;
  before.at = now;
  return shown;
}

function poolView(pool, rate) {
  const view = element("section", {}, element("h2", {}, `pool ${pool.name}`));
  view.append(element("p", { class: "note" },
    `epoch ${pool.epoch}, ${pool.placement} by ${pool.hash}, on_ejected ${pool.on_ejected}`));
  if (!pool.serves) view.append(element("p", { class: "warning" }, "no node of it serves"));
  if (pool.degraded) view.append(element("p", { class: "warning" }, `degraded: ${pool.degraded}`));
  const bar = element("div", { class: "shares", "aria-hidden": "true" });
  for (const node of pool.nodes) {
    if (node.share === 0) continue;
    const part = element("span", { class: tone(node), title: `${node.name}: ${percent(node.share)}` });
    part.style.flexGrow = String(node.share);
    bar.append(part);
  }
  view.append(bar);
  const head = element("tr", {}, ...["node", "state", "keys", "share", "requests/s", "hits", "in flight", ""].map(
    (title, at) => element("th", at > 2 && at < 7 ? { class: "number" } : {}, title)));
  const body = pool.nodes.map((node) => {
    const now = rate.get(JSON.stringify([pool.name, node.name]));
    const number = (text) => element("td", { class: "number" }, text);
    return element("tr", {},
      element("td", { title: node.address }, node.name),
      element("td", { class: tone(node) }, node.health),
      element("td", { class: tone(node) }, node.placement),
      number(percent(node.share)),
      number(now ? now.requests.toFixed(0) : ""),
      number(now && now.hits !== null && pool.on_ejected !== undefined ? percent(now.hits) : ""),
      number(String(node.in_flight)),
      element("td", { class: "note" }, remarks(node)));
  });
  view.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
  return view;
}

// Incidents that a person has opened stay open.
const opened = new Set();

function incidentView(incident) {
  const who = incident.node === null ? "this proxy" : `${incident.pool}/${incident.node}`;
  const first = incident.diagnoses[0];
  const state = incident.closed_ms === null ? "goes on"
    : `over after ${seconds((incident.closed_ms - incident.opened_ms) / 1000)}`;
  const view = element("details", {},
    element("summary", {},
      `${incident.id}  ${time(incident.opened_ms)}  ${who}: ${incident.cause ?? incident.evidence}  `,
      element("span", { class: incident.closed_ms === null ? "bad" : "note" }, state)));
  if (first) view.append(element("p", {}, `where: ${first.text} (${first.confidence.toFixed(2)})`));
  view.append(element("ol", {}, ...incident.timeline.map((step) => element("li", {},
    `${time(step.at_ms)}  epoch ${step.epoch}  ${step.what}  ${step.text}`))));
  view.open = opened.has(incident.id);
  view.addEventListener("toggle", () => (view.open ? opened.add(incident.id) : opened.delete(incident.id)));
  return view;
}

const SHOWN = 50;

function show(topology, incidents, metrics, now) {
  const rate = rates(metrics, now);
  const at = (id) => document.getElementById(id);
  at("process").replaceChildren(`${topology.version}, process ${topology.boot_id}${topology.draining ? ", draining" : ""}`);
  at("pools").replaceChildren(...topology.pools.map((pool) => poolView(pool, rate)));
  const last = incidents.incidents.slice(0, SHOWN).map(incidentView);
  at("incidents").replaceChildren(...(last.length ? last : [element("p", { class: "note" }, "none since the start")]));
  const unwell = topology.pools.flatMap((pool) => pool.nodes).filter((node) => tone(node) !== "well").length;
  const state = unwell ? `${unwell} of its nodes need a look` : "all nodes serve as they should";
  at("state").replaceChildren(element("span", { class: unwell ? "bad" : "well" }, state));
}

const PAUSE_MS = 2000;

async function look() {
  try {
    const get = async (path) => {
      const answer = await fetch(path, { cache: "no-store" });
      if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
      return answer;
    };
    const [topology, incidents, metrics] = await Promise.all(
      ["/v1/topology", "/v1/incidents", "/metrics"].map(get));
    show(await topology.json(), await incidents.json(), await metrics.text(), Date.now());
  } catch (error) {
    document.getElementById("state").replaceChildren(element("span", { class: "bad" }, `no answer: ${error.message}`));
  }
  setTimeout(look, PAUSE_MS);
}

look();
