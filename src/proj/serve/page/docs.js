// The page at /docs: /openapi.json, made readable.

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
  $("about").textContent = api.info.description ?? "";
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      $("operations").append(card(api, path, method.toUpperCase(), operation));
    }
  }
  $("kinds").append(...(api["x-problems"] ?? []).map(problemRow));
  $("problems").hidden = false;
  // The rows did not exist when the browser looked for #kind.
  if (location.hash) location.replace(location.hash);
}

function card(api, path, method, operation) {
  const made = element("section", "card");
  const heading = element("h2");
  heading.append(element("span", "method", method), element("code", "path", path));
  made.append(heading, element("p", "", operation.summary ?? ""));
  for (const paragraph of (operation.description ?? "").split("\n\n").filter(Boolean)) {
    if (paragraph !== operation.summary) made.append(text(paragraph));
  }
  made.append(element("h3", "", "Try it"), element("pre", "", commands(path, method, operation)));
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

function commands(path, method, operation) {
  const url = new URL(path.slice(1), document.baseURI).href;
  if (method === "GET") return `curl ${url}`;
  return bodies(operation.requestBody.content).map((rest) => `curl ${rest} ${url}`).join("\n");
}

// What follows `curl` for each way to send a body, by the content types that the model takes.
function bodies(content) {
  const json = JSON.stringify(content["application/json"]?.examples?.one.value ?? {});
  const asJson = `-H "Content-Type: application/json" -d '${json.replaceAll("'", "'\\''")}'`;
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
