// What makes a page live: parts that follow the server, and times that grow. Every page reads without it, too.

const SECOND = 1000;
const UNITS = [["d", 86_400 * SECOND], ["h", 3_600 * SECOND], ["m", 60 * SECOND], ["s", SECOND]];

function span(milliseconds) {
  const found = UNITS.findIndex(([, size]) => milliseconds >= size);
  if (found < 0) return "0s";
  const [unit, size] = UNITS[found];
  const [smaller, smallerSize] = UNITS[found + 1] ?? [];
  const rest = smaller ? Math.floor((milliseconds % size) / smallerSize) : 0;
  return `${Math.floor(milliseconds / size)}${unit}` + (rest ? `${String(rest).padStart(2, "0")}${smaller}` : "");
}

// The clock of the host may differ from that of the browser: each document says what time it was made.
const clockAhead = Number(document.documentElement.dataset.now) - Date.now();

class RelativeTime extends HTMLElement {
  static shown = new Set();

  connectedCallback() {
    RelativeTime.shown.add(this);
    this.update();
  }

  disconnectedCallback() {
    RelativeTime.shown.delete(this);
  }

  update() {
    const time = this.querySelector("time");
    if (!time) return;
    time.title ||= time.textContent;
    const passed = Date.now() + clockAhead - Date.parse(time.dateTime);
    if (this.hasAttribute("plain")) time.textContent = span(Math.max(0, passed));
    else time.textContent = passed >= 0 ? `${span(passed)} ago` : `in ${span(-passed)}`;
  }
}

setInterval(() => RelativeTime.shown.forEach((element) => element.update()), SECOND);

// Make `shown` equal to `wanted` with the fewest changes: what is open, focused or scrolled stays so.
function morph(shown, wanted) {
  const byId = new Map([...shown.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = shown.firstChild;
  for (const want of [...wanted.childNodes]) {
    let have = want.id && byId.get(want.id);
    if (have && have !== at) shown.insertBefore(have, at);
    have ||= at;
    if (!have || !alike(have, want)) {
      shown.insertBefore(want, at);
      continue;
    }
    at = have.nextSibling;
    if (have.nodeType !== Node.ELEMENT_NODE) {
      if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
    } else if (!have.isEqualNode(want)) {
      morphAttributes(have, want);
      morph(have, want);
      have.update?.();
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(have, want) {
  return have.nodeType === want.nodeType && have.nodeName === want.nodeName && (have.id ?? "") === (want.id ?? "");
}

function morphAttributes(have, want) {
  for (const { name } of [...have.attributes]) {
    if (!want.hasAttribute(name) && name !== "open" && name !== "title") have.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  }
}

function say(text) {
  document.getElementById("connection").textContent = text;
}

// A part of the page that the server sends anew when it changes.
export class LiveRegion extends HTMLElement {
  connectedCallback() {
    document.addEventListener("visibilitychange", this.show);
    addEventListener("pagehide", this.close);
    addEventListener("pageshow", this.show);
    this.show();
  }

  // A browser has six connections to a server: a page that cannot be seen gives its own back.
  show = () => {
    if (document.visibilityState === "hidden") this.close();
    else if (!this.source) this.follow();
  };

  close = () => {
    this.source?.close();
    this.source = null;
  };

  address() {
    return this.getAttribute("src");
  }

  receive(wanted) {
    morph(this, wanted);
  }

  follow() {
    this.source = new EventSource(this.address());
    this.source.addEventListener("show", (event) => {
      say("");
      const wanted = document.createElement("template");
      wanted.innerHTML = event.data;
      this.receive(wanted.content, event.lastEventId);
    });
    this.source.addEventListener("trouble", (event) => say(event.data));
    this.source.addEventListener("error", () => {
      say("The connection to stoker web is lost. This page comes back by itself.");
      if (this.source?.readyState !== EventSource.CLOSED) return; // it tries again by itself
      this.source = null;
      setTimeout(() => this.isConnected && this.show(), 3 * SECOND);
    });
    this.source.addEventListener("open", () => say(""));
  }

  disconnectedCallback() {
    document.removeEventListener("visibilitychange", this.show);
    removeEventListener("pagehide", this.close);
    removeEventListener("pageshow", this.show);
    this.close();
  }
}

// On the page of an error that passes: look whether it has passed.
class ComeBack extends HTMLElement {
  connectedCallback() {
    setInterval(async () => {
      const answer = await fetch(location.href, { method: "HEAD" }).catch(() => null);
      if (answer?.ok) location.reload();
    }, 2 * SECOND);
  }
}

// In a form of many jobs: a tick for each that the page shows.
class ChooseAll extends HTMLElement {
  connectedCallback() {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Choose all shown" });
    button.addEventListener("click", () => {
      for (const field of this.closest("form").elements) if (field.type === "checkbox") field.checked = true;
    });
    this.append(button);
  }
}

customElements.define("choose-all", ChooseAll);
customElements.define("relative-time", RelativeTime);
customElements.define("live-region", LiveRegion);
customElements.define("come-back", ComeBack);
