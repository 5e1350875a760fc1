// What pages do beyond HTML. Every task works without it.
import { localTimes } from "./times.js";
import { keepLive } from "./live.js";
import { confirmInDialog } from "./dialog.js";

localTimes(document);
keepLive(document.getElementById("live"));
confirmInDialog(document);

for (const input of document.querySelectorAll("[data-copy]")) {
  input.addEventListener("focus", () => input.select());
}
