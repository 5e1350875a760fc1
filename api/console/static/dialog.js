// A change that takes something away asks once more before it is made.
export function confirmInDialog(root) {
  for (const button of root.querySelectorAll("button.stern")) {
    button.addEventListener("click", (event) => {
      if (button.dataset.sure) return;
      event.preventDefault();
      ask(button);
    });
  }
}

function ask(button) {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "sure");
  const title = document.createElement("h2");
  title.id = "sure";
  title.textContent = document.querySelector("h1").textContent + "?";
  const text = document.createElement("p");
  text.textContent = document.querySelector(".lead")?.textContent ?? "";
  const buttons = document.createElement("form");
  buttons.method = "dialog";
  buttons.className = "buttons";
  const yes = document.createElement("button");
  yes.value = "yes";
  yes.className = "stern";
  yes.textContent = button.textContent;
  const no = document.createElement("button");
  no.autofocus = true;
  no.textContent = "Cancel";
  buttons.append(yes, no);
  dialog.append(title, text, buttons);
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    const sure = dialog.returnValue === "yes";
    dialog.remove();
    if (!sure) return button.focus();
    button.dataset.sure = "yes";
    button.click();
  });
  dialog.showModal();
}
