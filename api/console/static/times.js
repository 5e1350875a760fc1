// Times are written in UTC by the server, and here in the reader's zone, with UTC on hover.
const formats = {
  full: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }),
  moment: new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }),
};

export function localTimes(root) {
  for (const time of root.querySelectorAll("time[data-time]")) {
    const at = new Date(time.dateTime);
    time.title = at.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
    time.textContent = formats[time.dataset.time].format(at);
  }
  for (const input of root.querySelectorAll("input[type=datetime-local]")) {
    showLocal(input);
  }
}

// showLocal writes below an input in UTC what it is in the reader's zone.
function showLocal(input) {
  const zone = new Date().getTimezoneOffset();
  if (zone === 0) return;
  const output = document.createElement("output");
  output.className = "help";
  output.htmlFor = input.id;
  const show = () => {
    const at = new Date(input.value + "Z");
    output.textContent = isNaN(at) ? "" : `${formats.full.format(at)} in your zone`;
  };
  input.addEventListener("input", show);
  show();
  input.after(output);
}
