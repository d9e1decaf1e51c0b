// Shows openapi.json of this server. A key is kept in this page's memory alone, and goes to this server alone.
"use strict";

const base = new URL(".", location.href);
const form = document.getElementById("ask");

function show(spec, key) {
  form.hidden = true;
  spec.servers = [{ url: base.href.replace(/\/$/, "") }];
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#ui",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    onComplete: () => key && ui.preauthorizeApiKey("key", key),
  });
}

async function load(key) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(new URL("openapi.json", base), { headers });
  const body = await answer.json();
  if (answer.ok) return show(body, key);
  form.hidden = false;
  document.getElementById("problem").textContent = key || answer.status !== 401 ? body.error.message : "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  load(document.getElementById("key").value);
});
load("");
