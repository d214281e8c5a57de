// The page at /docs: /openapi.json, made readable.

const FEW = 8; // operations that need no table of contents

const $ = (id) => document.getElementById(id);

async function start() {
  let api;
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    api = await response.json();
  } catch (e) {
    $("error").textContent = `openapi.json cannot be read: ${e.message}`;
    $("error").hidden = false;
    return;
  }
  document.title = `API: ${api.info.title}`;
  $("title").textContent = `API: ${api.info.title}`;
  $("about").append(...prose(api.info.description ?? ""));
  $("key").hidden = !api.security;
  const operations = Object.entries(api.paths).flatMap(([path, { parameters = [], ...methods }]) =>
    Object.entries(methods).map(([method, operation]) => {
      const all = [...parameters, ...(operation.parameters ?? [])];
      return { ...operation, path, method: method.toUpperCase(), parameters: all };
    }),
  );
  for (const operation of operations) place(operation).append(card(api, operation));
  $("contents").hidden = operations.length <= FEW;
  $("contents").firstElementChild.append(...operations.filter(({ tags }) => !tags).map(entry));
  $("kinds").append(...(api["x-problems"] ?? []).map(problemRow));
  $("problems").hidden = false;
  // The rows did not exist when the browser looked for #kind.
  if (location.hash) location.replace(location.hash);
}

// Where an operation stands: one with a tag in that tag's group, which is folded.
function place({ tags }) {
  if (!tags) return $("operations");
  const id = `group-${tags[0].replaceAll(" ", "-")}`;
  if (!$(id)) {
    const group = element("details", "group");
    group.id = id;
    group.append(element("summary", "", tags[0]));
    $("operations").append(group);
  }
  return $(id);
}

function entry({ path, method }) {
  const made = element("li");
  const link = element("a");
  link.href = `#${anchor(method, path)}`;
  link.append(element("span", "method", method), element("code", "", path));
  made.append(link);
  return made;
}

const anchor = (method, path) => `${method}${path}`;

// Paragraphs, and lines that begin with a dash as a list.
function prose(source) {
  return source.split("\n\n").filter(Boolean).map((part) => {
    const lines = part.split("\n");
    if (!lines.every((line) => line.startsWith("- "))) return text(part);
    const list = element("ul");
    list.append(...lines.map((line) => text(line.slice(2), "li")));
    return list;
  });
}

function card(api, operation) {
  const { path, method } = operation;
  const made = element("section", "card");
  made.id = anchor(method, path);
  const heading = element("h2");
  heading.append(element("span", "method", method), element("code", "path", path));
  made.append(heading, element("p", "", operation.summary ?? ""));
  const description = operation.description ?? "";
  if (description !== operation.summary) made.append(...prose(description));
  made.append(element("h3", "", "Try it"), element("pre", "", commands(api, operation)));
  if (operation.parameters.length) made.append(element("h3", "", "Parameters"), parameters(api, operation));
  if (operation.requestBody) {
    made.append(element("h3", "", "Body"));
    made.append(text(Object.keys(operation.requestBody.content).map((type) => `\`${type}\``).join(", ")));
    made.append(text(operation.requestBody.description ?? ""));
  }
  for (const [status, response] of Object.entries(operation.responses)) {
    for (const [type, content] of Object.entries(response.content ?? {})) {
      if (status === "default") continue; // described once, below
      made.append(element("h3", "", `Answer ${status}, ${type}`));
      for (const schema of variants(api, content.schema)) made.append(...described(api, schema));
    }
  }
  return made;
}

function commands(api, operation) {
  const { path, method } = operation;
  const url = decodeURI(new URL(path.slice(1), document.baseURI).href); // {name} is to be filled in
  const key = (operation.security ?? api.security)?.length ? '-H "Authorization: Bearer $KEY" ' : "";
  if (!operation.requestBody) return `curl ${method === "GET" ? "" : `-X ${method} `}${key}${url}`;
  return bodies(api, operation.requestBody.content).map((rest) => `curl ${key}${rest} ${url}`).join("\n");
}

// What follows `curl` for each way to send a body, by the content types that the model takes.
function bodies(api, content) {
  const asJson = `-H "Content-Type: application/json" -d '${example(api, content["application/json"])}'`;
  if (!content["multipart/form-data"]) return [asJson];
  if (content["text/plain"]) {
    return [asJson, "-F file=@one.txt -F file=@two.txt", '-H "Content-Type: text/plain" --data-binary @article.txt'];
  }
  if (content["text/csv"]) {
    const raw = '-H "Content-Type: text/csv" --data-binary @window.csv';
    return ["-F file=@window.csv", "-F file=@one.csv -F file=@two.npy", raw, asJson];
  }
  const views = content["multipart/form-data"].schema.properties.views;
  return [
    "-F file=@photo.jpg",
    "-F file=@one.jpg -F file=@two.png",
    ...(views ? ["-F views=@left.jpg -F views=@right.jpg"] : []),
    '-H "Content-Type: image/jpeg" --data-binary @photo.jpg',
    asJson,
  ];
}

// A body in JSON, as a shell takes it between single quotes.
function example(api, content) {
  const first = Object.values(content?.examples ?? {})[0]?.value;
  const value = first ?? content?.example ?? (content?.schema ? sample(api, content.schema) : {});
  return JSON.stringify(value).replaceAll("'", "'\\''");
}

function parameters(api, operation) {
  const table = element("table");
  const body = element("tbody");
  for (const { name, in: where, required, schema, description } of operation.parameters) {
    const row = element("tr");
    const cells = [element("td"), element("td"), element("td")];
    cells[0].append(element("code", "", name));
    cells[1].textContent = `${kind(api, schema)}, in the ${where}${required ? "" : " (optional)"}`;
    cells[2].append(text(description ?? "", "span"));
    row.append(...cells);
    body.append(row);
  }
  table.append(body);
  return table;
}

const resolved = (api, schema) =>
  schema?.$ref ? schema.$ref.slice(2).split("/").reduce((node, key) => node[key], api) : (schema ?? {});

const variants = (api, schema) => (schema?.anyOf ?? [schema]).map((one) => resolved(api, one));

function described(api, schema) {
  if (!schema.properties) return [];
  const table = element("table");
  const body = element("tbody");
  body.append(...fields(api, schema, ""));
  table.append(body);
  const made = [text(schema.description ?? ""), table];
  const example = JSON.stringify(sample(api, schema), null, 1);
  // A schema whose fields have no examples of their own has nothing to show.
  if (!example.includes("…")) made.push(element("h3", "", "For example"), element("pre", "", example));
  return made;
}

function fields(api, schema, prefix) {
  return Object.entries(schema.properties).flatMap(([name, property]) => {
    const inner = property.$ref ? resolved(api, property) : null;
    if (inner?.properties) return fields(api, inner, `${prefix}${name}.`);
    const row = element("tr");
    const cells = [element("td"), element("td"), element("td")];
    cells[0].append(element("code", "", prefix + name));
    cells[1].textContent = kind(api, property) + ((schema.required ?? []).includes(name) ? "" : " (optional)");
    cells[2].append(text(property.description ?? "", "span"));
    row.append(...cells);
    return row;
  });
}

function kind(api, schema) {
  if (!schema) return "anything";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map((one) => kind(api, one)).join(" or ");
  if (schema.type === "array") return `list of ${kind(api, schema.items)}`;
  if (schema.enum) return schema.enum.map((value) => `"${value}"`).join(" or ");
  if (schema.const) return `"${schema.const}"`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    const inner = kind(api, schema.additionalProperties);
    return inner === "anything" ? "object" : `object of ${inner}`;
  }
  return schema.type ?? "anything";
}

function sample(api, schema) {
  const s = resolved(api, schema);
  if (s.examples?.length) return s.examples[0];
  if (s.const !== undefined) return s.const;
  if (s.enum) return s.enum[0];
  if (s.anyOf) return sample(api, s.anyOf[0]);
  if (s.properties) {
    const names = (s.required ?? Object.keys(s.properties)).filter((name) => name in s.properties);
    return Object.fromEntries(names.map((name) => [name, sample(api, s.properties[name])]));
  }
  if (s.example !== undefined) return s.example;
  if (s.type === "array") return s.items?.anyOf ? s.items.anyOf.map((one) => sample(api, one)) : [sample(api, s.items)];
  return { string: "…", integer: 1, number: 0.5, boolean: false, object: {} }[s.type] ?? null;
}

function problemRow({ status, slug, title, meaning }) {
  const row = element("tr");
  row.id = slug;
  row.append(element("td", "", String(status)), element("td", "", title), element("td", "", meaning));
  return row;
}

// A paragraph in which `code` is set as such.
function text(source, tag = "p") {
  const made = element(tag);
  source.split("`").forEach((part, i) => made.append(i % 2 ? element("code", "", part) : part));
  return made;
}

function element(tag, className = "", content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content) made.textContent = content;
  return made;
}

start();
