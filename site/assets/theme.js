// Light, dark or as the system has it: set before the page is drawn, kept in this browser.
const looks = ["system", "light", "dark"];
let look = "system";
try {
  look = localStorage.getItem("temimagenet look") ?? "system";
} catch {
  // Without storage the choice lasts as long as the page.
}

function show() {
  if (look === "light" || look === "dark") document.documentElement.dataset.look = look;
  else delete document.documentElement.dataset.look;
  const button = document.getElementById("look");
  if (button) button.textContent = `Colours: ${look}`;
}

show();
addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("look");
  button.hidden = false;
  button.addEventListener("click", () => {
    look = looks[(looks.indexOf(look) + 1) % looks.length];
    try {
      localStorage.setItem("temimagenet look", look);
    } catch {
      // As above.
    }
    show();
  });
  show();
});
