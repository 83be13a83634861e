// The end of a log that grows: new lines come behind the last one, which is replaced until it is complete.
import { LiveRegion } from "./page.js";

const MOST_LINES = 2000; // older ones are in the download
const NEAR_END = 24;

class LiveLog extends LiveRegion {
  connectedCallback() {
    this.lines = this.querySelector(".log");
    this.after = this.getAttribute("after");
    this.lines.addEventListener("scroll", () => { this.toEnd.checked = this.atEnd(); });
    this.addControls();
    this.jump();
    super.connectedCallback();
  }

  // Without a script nothing follows, so these have no place in the page.
  addControls() {
    const label = document.createElement("label");
    this.toEnd = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    this.toEnd.addEventListener("change", () => this.toEnd.checked && this.jump());
    label.append(this.toEnd, " stay at the end");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "To the end" });
    button.addEventListener("click", () => this.jump());
    const controls = document.createElement("p");
    controls.className = "actions";
    controls.append(label, button);
    this.insertBefore(controls, this.lines);
  }

  atEnd() {
    return this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < NEAR_END;
  }

  jump() {
    this.lines.scrollTop = this.lines.scrollHeight;
  }

  address() {
    const address = new URL(this.getAttribute("src"), location.href);
    address.searchParams.set("after", this.after);
    return address;
  }

  receive(wanted, id) {
    const stay = this.toEnd.checked;
    this.lines.querySelector(".open")?.remove();
    this.lines.append(wanted);
    while (this.lines.childElementCount > MOST_LINES) this.lines.firstElementChild.remove();
    this.after = id;
    if (stay) this.jump();
  }

  follow() {
    if (this.complete) return;
    super.follow();
    this.source.addEventListener("end", () => {
      this.complete = true;
      this.close();
    });
  }
}

customElements.define("live-log", LiveLog);
