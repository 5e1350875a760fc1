// The overview is read again while somebody looks at it. A reader can pause it.
import { localTimes } from "./times.js";

export function keepLive(part) {
  if (!part) return;
  let paused = false;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small pause";
  const label = () => {
    button.textContent = paused ? "Resume updates" : "Pause updates";
  };
  button.addEventListener("click", () => {
    paused = !paused;
    label();
  });
  label();
  document.querySelector(".title").append(button);

  setInterval(async () => {
    const busy = part.contains(document.activeElement) || part.querySelector("details[open]");
    if (paused || document.hidden || busy) return;
    const answer = await fetch("./?part=live").catch(() => null); // the server may be restarting
    if (answer?.redirected) return location.reload(); // the session has ended
    if (!answer?.ok) return;
    part.innerHTML = await answer.text();
    localTimes(part);
  }, part.dataset.every * 1000);
}
