// Keeps the page up to date while other tabs, devices and administrators change or end the session.
"use strict";

let isLeaving = false; // for the page that a link or a form has asked for, such as that after signing in
addEventListener("beforeunload", () => (isLeaving = true));
addEventListener("pageshow", () => (isLeaving = false));

function listen() {
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/live");
  socket.addEventListener("message", (event) => show(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    // 1008: the session has ended, so the page is not this visitor's any more.
    if (isLeaving) return;
    if (event.code === 1008) location.reload();
    else setTimeout(listen, 1000);
  });
}

function show(state) {
  for (const element of document.querySelectorAll("[data-show]")) {
    const value = state[element.dataset.show];
    if (Array.isArray(value)) element.replaceChildren(...value.map(item));
    else element.textContent = value;
  }
}

function item(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}

// "Lose nothing": the browser itself sends the requests that overlap.
async function race(event) {
  event.preventDefault();
  const form = event.target;
  const send = (step) => {
    const body = new URLSearchParams(new FormData(form));
    body.set("step", step);
    return fetch(form.action, { method: "POST", body });
  };
  form.querySelector("button").disabled = true;
  await send("start");
  const steps = ["increment", "append", "by hand"];
  await Promise.all(Array.from({ length: 150 }, (_, number) => send(steps[number % 3])));
  location.reload();
}

document.querySelector("form[action='/race']")?.addEventListener("submit", race);
listen();
