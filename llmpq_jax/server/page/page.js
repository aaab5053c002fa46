"use strict";

const element = (id) => document.getElementById(id);
const conversation = [];
let model = null;
let running = null;
let asksForKey = false;

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { authorization: `Bearer ${key}` } : {};
}

// Asks once for the key if the server wants one, and tries again.
async function request(path, options = {}) {
  const send = () => fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  let answer = await send();
  if (answer.status === 401 && !asksForKey) {
    asksForKey = true;
    element("key-dialog").showModal();
    await new Promise((done) => element("key-dialog").addEventListener("close", done, { once: true }));
    sessionStorage.setItem("key", element("key").value);
    asksForKey = false;
    answer = await send();
  }
  return answer;
}

function addMessage(role, text) {
  const message = document.createElement("p");
  message.className = "message";
  const name = document.createElement("b");
  name.textContent = role === "user" ? "you" : model || "model";
  const thought = document.createElement("span");
  thought.className = "thought";
  const body = document.createElement("span");
  body.textContent = text;
  message.append(name, thought, body);
  element("messages").append(message);
  element("messages").scrollTop = element("messages").scrollHeight;
  return { message, thought, body };
}

// Yields the objects of a stream of server-sent events.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

async function send(text) {
  conversation.push({ role: "user", content: text });
  addMessage("user", text);
  const shown = addMessage("assistant", "");
  running = new AbortController();
  setRunning(true);
  try {
    const answer = await request("v1/chat/completions", {
      method: "POST",
      signal: running.signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        messages: conversation,
        stream: true,
        temperature: Number(element("temperature").value),
        max_tokens: Number(element("tokens").value),
      }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const chunk of events(answer)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices.length ? chunk.choices[0].delta : {};
      shown.thought.textContent += delta.reasoning_content || "";
      shown.body.textContent += delta.content || "";
      element("messages").scrollTop = element("messages").scrollHeight;
    }
  } catch (reason) {
    if (reason.name !== "AbortError") {
      shown.message.classList.add("error");
      shown.body.textContent += `\n${reason.message}`;
    }
  } finally {
    running = null;
    setRunning(false);
    if (shown.message.classList.contains("error")) conversation.pop();
    else conversation.push({ role: "assistant", content: shown.body.textContent });
  }
}

function setRunning(is) {
  element("send").disabled = is;
  element("stop").disabled = !is;
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text || running) return;
  element("text").value = "";
  send(text).then(() => element("text").focus());
});
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("form").requestSubmit();
  }
});
element("stop").addEventListener("click", () => running && running.abort());
element("clear").addEventListener("click", () => {
  if (running) running.abort();
  conversation.length = 0;
  element("messages").replaceChildren();
  element("text").focus();
});

function milliseconds(seconds) {
  return seconds === null ? "–" : `${(1000 * seconds).toPrecision(3)} ms`;
}

function stageRow(stage) {
  const row = document.createElement("tr");
  const busy = document.createElement("meter");
  busy.value = stage.busy_share;
  busy.setAttribute("aria-label", "busy");
  const cells = [
    stage.devices.join(", "),
    `${stage.layers[0]}–${stage.layers[1] - 1}`,
    [busy, ` ${Math.round(100 * stage.busy_share)} %`],
    milliseconds(stage.queued_s),
    milliseconds(stage.decode_s),
    milliseconds(stage.predicted_decode_s),
    stage.memory,
  ];
  for (const content of cells) {
    const cell = document.createElement("td");
    cell.append(...(Array.isArray(content) ? content : [content]));
    row.append(cell);
  }
  return row;
}

async function refresh() {
  try {
    const answer = await request("stages");
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const found = await answer.json();
    model = found.model;
    element("model").textContent = model;
    element("state").textContent = "serving";
    element("requests").textContent =
      `${found.running} of ${found.slots} slots in use, ${found.waiting} waiting, ` +
      `${found.tokens_per_s.toFixed(1)} tokens/s`;
    element("stages").replaceChildren(...found.stages.map(stageRow));
  } catch (reason) {
    element("state").textContent = reason instanceof TypeError ? "no server: trying again" : reason.message;
  }
  setTimeout(refresh, 1000);
}

refresh();
