// Runs the dashboard's script on a page of its own making, with what a ringway answered, and prints the text
// that a person would see. Markup in names must come out as text.
//
// Usage: node dashboard.js SCRIPT TOPOLOGY INCIDENTS METRICS
"use strict";

const fs = require("fs");
const vm = require("vm");

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], attributes: {}, style: {}, open: false });
  }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener() {}
  set innerHTML(_) { throw new Error("markup is set from data"); }
  text() {
    const inner = this.children.map((child) => (typeof child === "string" ? child : child.text())).join(" ");
    return `<${this.tag}${this.attributes.class ? "." + this.attributes.class : ""}>${inner}`;
  }
}

const [script, topology, incidents, metrics] = process.argv.slice(2).map((path) => fs.readFileSync(path, "utf8"));
const parts = new Map();
const document = {
  createElement: (tag) => new Element(tag),
  getElementById: (id) => parts.get(id) ?? parts.set(id, new Element(id)).get(id),
};
const answers = { "/v1/topology": topology, "/v1/incidents": incidents, "/metrics": metrics };
const fetch = async (path) => ({ ok: true, json: async () => JSON.parse(answers[path]), text: async () => answers[path] });
let looks = 0;
const setTimeout = (again) => {
  looks += 1;
  if (looks < 2) return again();
  for (const part of parts.values()) console.log(part.text());
};
vm.runInNewContext(script, { document, fetch, setTimeout, Date, JSON, Map, Set, RegExp, Math, Number, Promise, String, Object });
